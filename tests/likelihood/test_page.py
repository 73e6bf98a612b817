from pathlib import Path

import torch


def test_the_page_on_likelihoods_runs(capsys):
    page = (Path(__file__).parents[2] / "docs" / "likelihood.md").read_text()
    code = "\n".join(part.split("```")[0] for part in page.split("```python\n")[1:])
    shorter = {
        "range(64)": "range(8)",
        "sample_data(64": "sample_data(8",
        "(1, 16)": "(1, 2)",
        "samples=100": "samples=10",
        "sde, 100": "sde, 30",
    }
    for long, short in shorter.items():
        assert long in code
        code = code.replace(long, short)
    names: dict = {}
    exec(code, names)
    assert "uniform 2" in capsys.readouterr().out
    torch.testing.assert_close(names["back"], names["x"], rtol=0, atol=1e-4)
    assert names["path"].shape == (5, 2)
    assert names["closer"].nats.shape == (8,)
