"""The model card of a denoiser that is handed on: README.md, with the header that model hubs read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

from torch import nn

LONGEST = 300  # characters of an expression in the card: a chain of a thousand own betas has more, and denoiser.json has them all


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """What only its maker knows of a model.

    Args:
        data: what it was trained on, in Markdown.
        license: the hub's word for it, such as "apache-2.0".
        metrics: names and values, such as `{"FID of 50000 samples": 3.17}`.
        notes: anything else, in Markdown.
        shape: of one sample, such as (3, 32, 32), for the example.

    Raises:
        ValueError: for a license of several lines, which would break the header.
    """

    data: str = ""
    license: str = ""
    metrics: Mapping[str, float | str] = dataclasses.field(default_factory=dict)
    notes: str = ""
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if "\n" in self.license:
            raise ValueError(f"license must be one line, such as 'apache-2.0', got {self.license!r}; put the text into notes")

    def text(self, name: str, expressions: Mapping[str, str], network: nn.Module, fitted: Sequence[int] = ()) -> str:
        """The card in Markdown.

        Args:
            name: what `from_pretrained` is to be given.
            expressions: of the network, the process and so on, by their names.
            network: whose parameters are counted.
            fitted: budgets of network calls for which there are fitted tables.
        """
        words = [expression.partition("(")[0] for key, expression in expressions.items() if key in ("network", "sde")]
        header = ["library_name: sde_diffusion", f"tags: {json.dumps(['diffusion', 'score-based', 'sde', *words])}"]
        header += [f"license: {json.dumps(self.license)}"] if self.license else []
        facts = {key: f"`{_shortened(expression)}`" for key, expression in expressions.items()}
        dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in network.parameters()})
        facts["parameters"] = f"{sum(p.numel() for p in network.parameters()):,} ({', '.join(dtypes)})"
        if fitted:
            facts["fitted tables"] = f"for {', '.join(map(str, fitted))} network calls; `sample(denoiser, nfe={fitted[0]}, ...)` takes them"
        shape = ", ".join(map(str, self.shape)) if self.shape else "..."
        comment = "" if self.shape else "  # (number of samples, *shape of one)"
        use = f"""```python
import sde_diffusion as sd

denoiser = sd.Denoiser.from_pretrained({name!r})
samples = sd.sample(denoiser, shape=(16, {shape}), nfe={fitted[0] if fitted else 20}){comment}
```"""
        sections = {
            f"# {name}": "A denoiser, x0_hat(x, t) = E[x_0 | x_t]: a diffusion model of the package `sde_diffusion`.\n\n" + _table(facts),
            "## Use": use,
            "## Training data": self.data or "Not stated.",
            "## Metrics": _table(self.metrics) if self.metrics else "Not stated.",
        }
        if self.notes:
            sections["## Notes"] = self.notes
        body = "\n\n".join(f"{title}\n\n{content}" for title, content in sections.items())
        return "---\n" + "\n".join(header) + f"\n---\n\n{body}\n"


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."


def _table(rows: Mapping[str, float | str]) -> str:
    cells = ["| " + " | ".join(str(cell).replace("\n", " ").replace("|", r"\|") for cell in row) + " |" for row in rows.items()]
    return "\n".join(("| | |", "|---|---|", *cells))
