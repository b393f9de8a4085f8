from __future__ import annotations

import pytest
import torch
from torch import nn

from fewer.core.errors import FewerError
from fewer.models.image_encoders import (
    ImageEncoder,
    ResNet10,
    SmallEncoder,
    SpatialLearnedEmbeddings,
    random_crop,
    standardised,
)


def images(count=3, height=9, width=7, channels=3):
    return torch.randint(256, (count, height, width, channels), dtype=torch.uint8)


def test_a_crop_is_a_shift_that_repeats_edges():
    torch.manual_seed(0)
    given = images(6)
    cropped = random_crop(given, padding=4)
    padded = nn.functional.pad(given.permute(0, 3, 1, 2).float(), (4, 4, 4, 4), mode="replicate").to(torch.uint8)
    shifts = set()
    for image, found in zip(padded, cropped, strict=True):
        places = [
            (down, across)
            for down in range(9)
            for across in range(9)
            if torch.equal(image[:, down : down + 9, across : across + 7].permute(1, 2, 0), found)
        ]
        assert len(places) == 1
        shifts.add(places[0])
    assert len(shifts) > 1
    assert torch.equal(random_crop(given, padding=0), given)


def test_learned_places_equal_a_plain_sum():
    torch.manual_seed(0)
    read, maps = SpatialLearnedEmbeddings(2, 3, 4, features=5), torch.randn(6, 2, 3, 4)
    found = read(maps)
    for row in range(6):
        for channel in range(2):
            for feature in range(5):
                expected = (maps[row, channel] * read.kernel[feature, channel]).sum()
                assert torch.allclose(found[row, channel * 5 + feature], expected, atol=1e-5)


def test_learned_places_gradient():
    read, maps = SpatialLearnedEmbeddings(2, 2, 2, features=2).double(), torch.randn(2, 2, 2, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(read, maps.requires_grad_())


def test_shapes_and_parts():
    trunk = ResNet10()
    assert trunk(torch.zeros(1, 128, 128, 3, dtype=torch.uint8)).shape == (1, 512, 4, 4)
    # a stem, four blocks of two convolutions, and three ways around
    assert sum(isinstance(each, nn.Conv2d) for each in trunk.modules()) == 1 + 8 + 3
    assert SmallEncoder(channels=9, outputs=5)(images(2, 40, 40, 9)).shape == (2, 5)


def test_a_frozen_trunk_takes_no_gradient_and_another_does():
    for frozen in (True, False):
        encoder = ImageEncoder((32, 32, 3), outputs=4, trunk=ResNet10(widths=(8, 8)), frozen=frozen)
        encoder(images(2, 32, 32)).square().sum().backward()
        assert all((parameter.grad is None) == frozen for parameter in encoder.trunk.parameters())
        assert all(parameter.grad is not None for parameter in encoder.read.parameters())


def test_dropout_is_for_training():
    torch.manual_seed(0)
    encoder, given = ImageEncoder((32, 32, 3), outputs=4, dropout=0.5, trunk=ResNet10(widths=(8,))), images(2, 32, 32)
    assert not torch.equal(encoder(given), encoder(given))
    encoder.eval()
    assert torch.equal(encoder(given), encoder(given))


def test_bytes_are_standardised_by_channel():
    found = standardised(torch.full((1, 1, 1, 6), 255, dtype=torch.uint8))[0, :, 0, 0]
    assert found[:3].tolist() == pytest.approx([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    assert torch.equal(found[:3], found[3:])


def test_the_same_numbers_as_floats_are_the_same_image():
    given = images()
    assert torch.equal(standardised(given), standardised(given.float()))


def test_errors():
    with pytest.raises(FewerError, match="the same numbers as float32, of the shape"):
        standardised(torch.zeros(1, 4, 4, 3, dtype=torch.float64))
    with pytest.raises(FewerError, match="bytes, or the same numbers"):
        standardised(torch.zeros(4, 4, 3, dtype=torch.uint8))
    with pytest.raises(FewerError, match="the padding is -1"):
        random_crop(images(), -1)
    with pytest.raises(FewerError, match="multiples of 4"):
        ResNet10(widths=(6,))
    with pytest.raises(FewerError, match="vanish in its convolutions; give at least 31"):
        SmallEncoder()(images(1, 30, 40))
