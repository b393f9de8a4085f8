from __future__ import annotations

import pytest
import torch

from fewer.core.errors import FewerError
from fewer.demos.image_encoders import ImageCodec, PlacesEncoder, SpatialSoftmax


def test_places_follow_what_is_seen():
    maps = torch.zeros(2, 1, 5, 9)
    maps[0, 0, 4, 0], maps[1, 0, 2, 6] = 60.0, 60.0
    torch.testing.assert_close(SpatialSoftmax()(maps), torch.tensor([[-1.0, 1.0], [0.5, 0.0]]))
    torch.testing.assert_close(SpatialSoftmax()(torch.zeros(1, 2, 4, 4)), torch.zeros(1, 4), atol=1e-6, rtol=0)


def test_the_network_has_eighteen_layers():
    encoder = PlacesEncoder(3)
    # the first, two in each of eight blocks, and the read-out where a classifier would be
    counted = [
        m
        for m in encoder.modules()
        if isinstance(m, torch.nn.Conv2d) and (m.kernel_size != (1, 1) or m.out_channels == 32)
    ]
    assert len(counted) == 18
    assert encoder(torch.zeros(1, 3, 64, 64)).shape == (1, encoder.features)


def test_an_image_can_be_learned_by_heart():
    torch.manual_seed(0)
    image = torch.rand(2, 1, 16, 16)
    codec = ImageCodec((1, 16, 16), depth=4, features=32)
    between = torch.nn.Linear(codec.width, 32)
    optimiser = torch.optim.Adam([*codec.parameters(), *between.parameters()], lr=1e-2)
    losses = []
    for _ in range(150):
        loss = (codec.decode(between(codec.encode(image))) - image).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0]


def test_sides_must_go_by_sixteen():
    with pytest.raises(
        FewerError, match="images of 20 by 32 cannot be halved four times; make both sides multiples of 16"
    ):
        ImageCodec((3, 20, 32), depth=4, features=8)
