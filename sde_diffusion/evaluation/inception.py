"""The Inception network that published Fréchet distances are measured with (Szegedy et al. 2016; Heusel et al. 2017).

    (b, c, h, w) in [-1, 1]  ->  3 channels, whole numbers 0..255  ->  resized to 299 x 299 and run by torch-fidelity
                             ->  2048 pooled features, 1008 logits without bias

The weights are TensorFlow's of 2015, converted by torch-fidelity; torchvision's network gives other numbers.  Nothing is downloaded here.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from sde_diffusion.evaluation.features import module_key

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"  # torch-fidelity's name of the file
SOURCE = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS}"
FEATURES, LOGITS = "2048", "logits_unbiased"


def to_bytes(x: Tensor) -> Tensor:
    """Images (b, c, h, w) in [-1, 1] as uint8 (b, 3, h, w): round(127.5 (x + 1)), clamped; one channel counts as grey.

    Raises:
        ValueError: for other shapes than images of one or three channels.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"Inception sees images (b, 1 or 3, h, w), got {tuple(x.shape)}; choose another extractor for such data")
    return (127.5 * (x.float() + 1)).round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1)


class Inception:
    """The 2048 features and the logits of the Inception network.

    Args:
        weights: the file; None: WEIGHTS in torch.hub's checkpoint folder.
        batch: images at a time.
        device: where it runs.
        module: to run instead, uint8 (b, 3, h, w) to (features, logits), such as another port of the same weights.

    Raises:
        ModuleNotFoundError: without torch-fidelity.
        FileNotFoundError: without the weights.
    """

    name = "inception"

    def __init__(
        self,
        *,
        weights: Path | None = None,
        batch: int = 64,
        device: str | torch.device = "cpu",
        module: nn.Module | None = None,
    ) -> None:
        self.module = (_fidelity(weights) if module is None else module).eval().to(device)
        self.batch, self.device = batch, device

    @property
    def key(self) -> str:
        """Name and digest of the module."""
        return module_key(self.name, self.module)

    def __call__(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [-1, 1] to (b, 2048)."""
        return self._run(x, 0)

    def logits(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [-1, 1] to (b, 1008)."""
        return self._run(x, 1)

    def _run(self, x: Tensor, output: int) -> Tensor:
        with torch.no_grad():
            return torch.cat([self.module(to_bytes(part).to(self.device))[output].flatten(1).float().cpu() for part in x.split(self.batch)])

    def __repr__(self) -> str:
        return f"Inception(batch={self.batch}, device={str(self.device)!r})"


def _fidelity(weights: Path | None) -> nn.Module:
    path = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS if weights is None else Path(weights)
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Inception features need torch-fidelity (and the torchvision that it asks for), {error.name} is missing:"
            f" pip install torch-fidelity, and put {SOURCE} at {path}",
            name=error.name,
        ) from error
    if not path.exists():
        raise FileNotFoundError(f"no Inception weights at {path}; download {SOURCE} and put it there, or pass weights=")
    network: nn.Module = FeatureExtractorInceptionV3("inception-v3-compat", [FEATURES, LOGITS], feature_extractor_weights_path=str(path))
    return network
