"""What pre-training hands on: an encoder that embeds rows, writes what it embedded, and starts other networks."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped
from safetensors.torch import save as to_bytes
from torch import nn

from fewer.core.errors import FewerError, need
from fewer.core.files import write_atomically
from fewer.pretrain.readout import embed


class PretrainedEncoder:
    """A trained encoder.

    Parameters
    ----------
    network : nn.Module
        Rows to features.

    Examples
    --------
    >>> encoder = PretrainedEncoder(nn.Linear(3, 2))
    >>> encoder.embed(np.zeros((4, 3))).shape
    (4, 2)
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval()

    def embed(self, x: Shaped[np.ndarray, "rows ..."]) -> Float[np.ndarray, "rows width"]:
        """Features of rows (see :func:`fewer.pretrain.readout.embed`)."""
        return embed(self.network, x)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights as safetensors: what :class:`fewer.models.pretrained.Pretrained` starts from."""
        tensors = {name: value.contiguous().cpu() for name, value in self.network.state_dict().items()}
        write_atomically(path, to_bytes(tensors))

    def write(self, path: str | os.PathLike[str], x: Shaped[np.ndarray, "rows ..."]) -> None:
        """Embed rows and write the features: NPZ with the array ``x``, or Parquet with a column for each.

        Parameters
        ----------
        path : path
            Ends in ``.npz`` or ``.parquet``.
        x : array (rows, ...)
            As the encoder takes them.

        Raises
        ------
        FewerError
            For another ending.
        """
        ending = Path(path).suffix.lower()
        if ending not in (".npz", ".parquet"):
            raise FewerError(f"embeddings are written to .npz or .parquet; {path} ends in {ending or 'nothing'}")
        features, file = self.embed(x), io.BytesIO()
        if ending == ".npz":
            np.savez(file, x=features)
        else:
            pandas = need("pandas", what="Parquet", extra="all")
            pandas.DataFrame(features, columns=[f"f{place}" for place in range(features.shape[1])]).to_parquet(file)
        write_atomically(path, file.getvalue())
