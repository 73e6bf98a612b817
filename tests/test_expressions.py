import dataclasses
import math
import os

import numpy as np
import pytest

import sde_diffusion as sd
from sde_diffusion.expressions import plain_floats

OBJECTS = [
    sd.VPSDE(),
    sd.VPSDE(0.2, 15.0, t_min=1e-4),
    sd.SubVPSDE(),
    sd.SubVPSDE(beta_max=10, t_min=0.01),
    sd.CosineVPSDE(),
    sd.CosineVPSDE(0.01, t_min=1e-5, t_max=0.99),
    sd.VESDE(),
    sd.VESDE(0.1, 348.0, t_min=0.0),
    sd.EDMSDE(),
    sd.EDMSDE(0.01, 10.0, 3.0, t_min=0.1),
    sd.RectifiedFlow(),
    sd.LogNoise(),
    sd.ModelCard(data="digits", metrics={"FID": 3.2}, shape=(1, 8, 8)),
    sd.PlainScore(),
    sd.RescaledX0(),
    sd.Velocity(sd.SubVPSDE()),
    sd.NoiseRatio(),
    sd.Flow(),
    sd.UNetConfig(),
    sd.DiTConfig(classes=3),
    sd.UNetConfig(channels=3, attention=[1], fir=[1, 3, 3, 1], progressive_input="residual", slim=False),
    sd.TimeLabel(-232, 232, whole=True),
    sd.SigmaLabel(),
    sd.RectifiedFlow(t_min=0.01, t_max=0.99),
    sd.DDPMChain((0.1, 0.2, 1 / 3)),
    sd.VPSDE().discretize(1000),
    sd.NCSNLadder((0.01, 0.1, 1.0)),
    sd.VESDE().discretize(7),
    sd.AffineChain((1.0, 0.5), (0.0, 1.0)),
    sd.SubVPSDE().discretize(5),
    *(p() for p in (sd.Epsilon, sd.Score, sd.X0, sd.V, sd.EDM)),
    sd.EDM(0.1 + 0.2),
    sd.EulerMaruyama(),
    sd.EulerMaruyama(eta=0.5),
    sd.ReverseDiffusion(),
    sd.ReverseDiffusion(0.0),
    sd.Ancestral(),
    sd.Ancestral("forward"),
    sd.Ancestral("learned"),
    sd.Ancestral("analytic", sd.ReconstructionError((-1.0, 1.0), (0.5, 1 / 3))),
    sd.LearnedVariance(),
    sd.LearnedVariance(sd.X0()),
    sd.ReconstructionError((-1.0, 1.0), (0.5, 1 / 3)),
    sd.DDIM(),
    sd.DDIM(1 / 3),
    *(solver() for solver in (sd.Euler, sd.Heun, sd.Midpoint, sd.RK4, sd.DPMSolver)),
    *(solver() for solver in (sd.AdamsBashforth, sd.DEIS, sd.IPNDM, sd.DPMSolverPP, sd.UniPC, sd.SASolver)),
    sd.Midpoint("x0", eta=0.5),
    sd.DPMSolver(2, "x0", 1.0),
    sd.UniPC(2, "bh1", corrector=False, form="epsilon"),
    sd.Churn(),
    sd.Churn(sd.Midpoint(), 10, s_noise=1.0),
    sd.Renoise(sd.Euler()),
    sd.Renoise(sd.Midpoint("x0"), eta=0.5),
    sd.AnalyticFirstStep(sd.IPNDM(3, variable_step=True)),
    sd.Truncate(sd.DDIM(), 0.5, std=0.7),
    sd.Langevin(),
    sd.Langevin(snr=0.075, steps=2, norm="batch"),
    sd.AnnealedLangevin(),
    sd.AnnealedLangevin(epsilon=6.2e-6, steps=5),
    *(solver() for solver in (sd.ConsistentAnnealed, sd.PreconditionedLangevin, sd.UnderdampedLangevin, sd.MetropolisLangevin)),
    sd.PreconditionedLangevin((1.0, 0.5), snr=0.1),
    sd.PredictorCorrector(),
    sd.PredictorCorrector(sd.EulerMaruyama(0.5), sd.Langevin(0.1), "corrector"),
    sd.FinalDenoise(sd.PredictorCorrector(sd.Ancestral())),
    *(solver() for solver in (sd.AdaptiveODE, sd.AdaptiveSDE, sd.ScipyODE, sd.TorchSDE)),
    sd.AdaptiveSDE(0.02, rejection="fresh"),
    sd.TorchSDE("srk", eta=0.5),
    sd.ScipyODE("LSODA", rtol=1e-8),
    sd.AdaptiveODE(method="bosh3", rtol=1e-3, atol=1e-6, form="t", compact=False),
    *(grid() for grid in (sd.uniform, sd.quadratic, sd.log_snr, sd.karras, sd.chain_grid, sd.vp_power, sd.cosine, sd.sigma_uniform)),
    sd.karras(rho=5.0, t_min=1e-3),
    sd.chain_grid(spacing="quadratic", length=1000),
    sd.SimpleWeighting(),
    sd.LikelihoodWeighting(),
    sd.EDMWeighting(),
    sd.EDMWeighting(1.5),
    sd.ConstantWeighting(),
    sd.UniformTimes(),
    sd.UniformTimes(0.0),
    sd.ChainTimes(),
    sd.LogNormalTimes(),
    sd.LogNormalTimes(-0.4, 1.0),
    sd.DenoisingScoreMatching(),
    sd.DenoisingScoreMatching(sd.EDMWeighting(0.3), sd.LogNormalTimes(), stratified=False),
    sd.DenoisingScoreMatching(sd.LikelihoodWeighting(), sd.LikelihoodTimes(1e-4), unbiased=True, distance=sd.PseudoHuber(0.1)),
    sd.LikelihoodTimes(),
    sd.PseudoHuber(),
    *(weighting() for weighting in (sd.VWeighting, sd.MinSNRWeighting, sd.SoftMinSNRWeighting, sd.P2Weighting, sd.SigmoidWeighting)),
    sd.MinSNRWeighting(4),
    sd.P2Weighting(2, 0.5),
    sd.GaussianDecoder(),
    sd.DiscretizedDecoder(2 / 255),
    sd.SoftmaxDecoder(0.125, low=-2.0, high=2),
    sd.HybridLoss(),
    sd.HybridLoss(vlb_weight=0.01, decoder=sd.DiscretizedDecoder(0.125)),
    sd.VariationalLoss(),
    sd.VDMLoss(),
    sd.VDMLoss(width=0.125),
    *(loss() for loss in (sd.SlicedScoreMatching, sd.ImplicitScoreMatching, sd.FiniteDifferenceScoreMatching, sd.LastStepScoreMatching)),
    sd.TabulatedVPSDE((4.0, 3.0, 1.0, -1.0, -2.5)),
    sd.Quantization(17, dequantized=True),
    sd.Quantization(256, dequantized=False, low=0.0, high=1.0),
    sd.TruncatedNormal(),
]


@pytest.mark.parametrize("thing", OBJECTS, ids=lambda o: repr(o)[:60])
def test_an_object_prints_as_the_expression_that_makes_it(thing):
    again = sd.build(repr(thing))
    assert again == thing
    assert type(again) is type(thing)
    assert repr(again) == repr(thing)


def test_every_public_dataclass_is_among_them():
    # what holds tensors, generators or functions is no expression
    known = {type(o).__name__ for o in OBJECTS}
    others = {"Matched", "FittedSolver", "Tableau", "Trajectories", "Step", "Stream", "Antithetic", "Projected", "WorkPrecision"}
    public = {name for name in sd.__all__ if isinstance(getattr(sd, name), type) and dataclasses.is_dataclass(getattr(sd, name))}
    assert public <= known | others


@pytest.mark.parametrize(
    "thing",
    [
        sd.VPSDE(np.float64(0.1), np.float32(20)),
        sd.VESDE(sigma_max=np.float64(12.5)),
        sd.EDMSDE(rho=np.int64(7)),
        sd.RectifiedFlow(t_min=np.float64(0.01)),
        sd.CosineVPSDE(np.float64(0.01)),
        sd.DDPMChain(np.linspace(0.1, 0.2, 3)),
        sd.NCSNLadder(np.geomspace(0.1, 1, 3)),
        sd.EDM(np.float64(0.3)),
        sd.EDMWeighting(np.float32(0.5)),
        sd.LogNormalTimes(np.float64(-1)),
        sd.UniformTimes(np.float64(0.01)),
    ],
    ids=repr,
)
def test_numpys_numbers_print_as_numbers(thing):
    # NumPy 2 prints np.float64(0.1), and a checkpoint that says so could not be read
    assert "np." not in repr(thing)
    assert sd.build(repr(thing)) == thing


def test_plain_floats_touches_float_fields_only():
    @dataclasses.dataclass(frozen=True)
    class Box:
        a: "float"
        n: "int"
        s: "str"

    box = Box(np.float64(1), 2, "x")
    plain_floats(box)
    assert (type(box.a), box) == (float, Box(1.0, 2, "x"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (" DDIM ( eta = 0.5 ) ", sd.DDIM(0.5)),
        ("DDIM(0.5)", sd.DDIM(0.5)),
        ("DDPMChain(linear_betas(4, 0.1, 0.4))", sd.DDPMChain(sd.linear_betas(4, 0.1, 0.4))),
        ("NCSNLadder([0.1, 1])", sd.NCSNLadder((0.1, 1.0))),
        ("LogNormalTimes(mean=-1.2e0)", sd.LogNormalTimes(-1.2)),
        (
            "PredictorCorrector(\n  ReverseDiffusion(),\n  Langevin(snr=0.16),\n)",
            sd.PredictorCorrector(sd.ReverseDiffusion(), sd.Langevin(0.16)),
        ),
        ("(1, 'a', [True, None], {'k': -2})", (1, "a", [True, None], {"k": -2})),
    ],
)
def test_expressions_are_understood(text, value):
    assert sd.build(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "__import__('os')",
        "eval('1')",
        "open('/etc/passwd')",
        "DDIM.__init__",
        "DDIM().__class__",
        "DDIM.__subclasses__()",
        "(lambda: 1)()",
        "[x for x in (1,)]",
        "{x: 1 for x in (1,)}",
        "(x := 1)",
        "f'{DDIM}'",
        "DDIM()[0]",
        "1 + 1",
        "2 ** 99999999",
        "'a' * 99999999",
        "not True",
        "DDIM(*[0.5])",
        "DDIM(**{'eta': 0.5})",
        "{**{}}",
        "{[]: 1}",
        "DDIM() if True else 1",
        "await x",
        "x = 1",
        "DDIM(); DDIM()",
        "import os",
        "",
        "DDIM(",
        "-DDIM()",
        "-'a'",
        "-" * 100_000 + "1",
        "(" * 5_000 + "1" + ")" * 5_000,
        "a\0b",
    ],
    ids=lambda text: text[:30],
)
def test_nothing_else_is_evaluated(text):
    with pytest.raises(ValueError, match=r"not allowed|not an expression|unknown name|nested too deeply"):
        sd.build(text)


def test_a_dangerous_name_is_not_called_even_as_an_argument(tmp_path):
    target = tmp_path / "file"
    with pytest.raises(ValueError, match="unknown name 'open'"):
        sd.build(f"DDIM(open({str(target)!r}, 'w'))")
    assert not os.path.exists(target)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("DIMM()", "did you mean DDIM"),
        ("ddim()", "did you mean DDIM"),
        ("vpsde()", "did you mean .*VPSDE"),
        ("EulerMaruyma()", "did you mean EulerMaruyama"),
        ("karas(rho=7.0)", "did you mean karras"),
        ("Qzxwvut()", r"see the public names in dir\(sde_diffusion\)"),
    ],
)
def test_an_unknown_name_suggests_close_ones(text, hint):
    with pytest.raises(ValueError, match=f"unknown name .*{hint}"):
        sd.build(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("DDIM(etta=0.5)", "the arguments in 'DDIM\\(etta=0.5\\)' do not fit DDIM: .*etta"),
        ("DDIM(0.5, 1)", "do not fit DDIM"),
        ("DDIM(eta=2.0)", "eta must be between 0"),
        ("karras(roh=5.0)", "do not fit karras: .*roh"),
    ],
)
def test_wrong_arguments_say_which(text, message):
    with pytest.raises(ValueError, match=message):
        sd.build(text)


def test_other_names_can_be_used():
    assert sd.build("pi", {"pi": math.pi}) == math.pi
    with pytest.raises(ValueError, match="unknown name 'DDIM'"):
        sd.build("DDIM()", {"pi": math.pi})


@pytest.mark.parametrize(
    ("chain", "text"),
    [
        (sd.VPSDE().discretize(1000), "DDPMChain(linear_betas(1000, 0.0001, 0.02))"),
        (sd.CosineVPSDE().discretize(50), "DDPMChain(cosine_betas(50))"),
        (sd.VESDE().discretize(232), "NCSNLadder(geometric_sigmas(232, 0.01, 50.0))"),
        (sd.DDPMChain((0.1, 0.3, 0.2)), "DDPMChain((0.1, 0.3, 0.2))"),
    ],
    ids=["linear", "cosine", "geometric", "other"],
)
def test_a_chain_prints_the_rule_that_makes_it_rather_than_its_numbers(chain, text):
    assert repr(chain) == text
    assert sd.build(text) == chain


def test_a_solver_names_what_is_not_default_in_tables_and_messages():
    assert str(sd.DPMSolverPP()) == "DPMSolverPP(order=2)"
    assert str(sd.Renoise(sd.Midpoint("x0"))) == "Renoise(inner=Midpoint(form='x0'))"
    assert sd.build(str(sd.UniPC(2, "bh1"))) == sd.UniPC(2, "bh1")
