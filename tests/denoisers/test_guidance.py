"""Classifier-free guidance against the closed form for two known classes."""

from typing import NamedTuple

import pytest
import torch

import sde_diffusion as sd
from sde_diffusion.denoisers.guidance import ClassifierFreeGuidance

CLASSES = ([[1.5, -1.0]], 0.4), ([[-1.0, 0.5]], 0.7)
NONE = 2  # the label of no class


class Named(NamedTuple):
    label: torch.Tensor


class Classes(sd.Denoiser):
    """Exact beliefs about two classes, 0 and 1, and about their mixture, 2 or no condition."""

    def __init__(self, sde):
        super().__init__(sde)
        single = [sd.GaussianMixtureDenoiser(means, std, None, sde) for means, std in CLASSES]
        means, stds = zip(*CLASSES, strict=True)
        self.beliefs = torch.nn.ModuleList([*single, sd.GaussianMixtureDenoiser([m[0] for m in means], stds, None, sde)])
        self.batches = []

    def forward(self, x, t, cond=None):
        self.batches.append(len(x))
        if cond is None:
            return self.beliefs[2](x, t)
        label = cond
        if not isinstance(cond, torch.Tensor):
            label = cond["label"] if isinstance(cond, dict) else cond.label if isinstance(cond, Named) else cond[0]
        assert label.shape == (len(x),)
        return torch.stack([belief(x, t) for belief in self.beliefs])[label, torch.arange(len(x))]


@pytest.fixture
def x(generator):
    return torch.randn(5, 2, generator=generator, dtype=torch.float64)


LABELS = torch.tensor([0, 1, 1, 0, 1])


@pytest.mark.parametrize("sde", [sd.VPSDE(), sd.VESDE(), sd.RectifiedFlow()], ids=str)
@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0, -1.0])
def test_it_is_the_score_of_the_mixture_times_the_classifiers_power(sde, scale, x):
    t = torch.linspace(0.2, 0.9, 5, dtype=torch.float64)
    denoiser = Classes(sde)
    x.requires_grad_()
    of_class = torch.stack([belief.log_prob(x, t) for belief in denoiser.beliefs])
    log_prob = of_class[2] + scale * (of_class[LABELS, torch.arange(5)] - of_class[2])
    (truth,) = torch.autograd.grad(log_prob.sum(), x)
    guided = ClassifierFreeGuidance(denoiser, scale)
    torch.testing.assert_close(guided.score(x.detach(), t, LABELS), truth, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_eps_is_ho_and_salimans_with_w_one_less(scale, x):
    denoiser, w = Classes(sd.VPSDE()), scale - 1
    truth = (1 + w) * denoiser.eps(x, 0.4, LABELS) - w * denoiser.eps(x, 0.4)
    torch.testing.assert_close(ClassifierFreeGuidance(denoiser, scale).eps(x, 0.4, LABELS), truth)


FORMS = {
    "tensor": (torch.tensor([NONE]), LABELS),
    "number": (NONE, LABELS),
    "dict": ({"label": torch.tensor([NONE])}, {"label": LABELS}),
    "tuple": ((torch.tensor([NONE]),), (LABELS,)),
    "named tuple": (Named(torch.tensor([NONE])), Named(LABELS)),
    "one row for all": (torch.tensor([NONE]), LABELS[:1]),
}


@pytest.mark.parametrize("form", FORMS)
def test_conditions_of_one_form_are_one_call_on_twice_the_batch(form, x):
    null, cond = FORMS[form]
    denoiser = Classes(sd.VPSDE())
    labels = LABELS[:1].expand(5) if form == "one row for all" else LABELS
    truth = ClassifierFreeGuidance(denoiser, 3.0)(x, 0.4, labels)
    assert denoiser.batches == [5, 5]
    denoiser.batches.clear()
    for t in (0.4, torch.full((1,), 0.4), torch.full((5,), 0.4)):
        result = ClassifierFreeGuidance(denoiser, 3.0, null)(x, t, cond)
        torch.testing.assert_close(result, truth, rtol=1e-6, atol=1e-6)
    assert denoiser.batches == [10] * 3


def test_scale_1_and_no_condition_are_one_call(x):
    denoiser = Classes(sd.VPSDE())
    torch.testing.assert_close(ClassifierFreeGuidance(denoiser, 1.0, NONE)(x, 0.4, LABELS), denoiser(x, 0.4, LABELS), rtol=0, atol=0)
    for null in (NONE, torch.tensor([NONE]), None):
        torch.testing.assert_close(ClassifierFreeGuidance(denoiser, 3.0, null)(x, 0.4), denoiser(x, 0.4), rtol=0, atol=0)
    assert denoiser.batches == [5] * 8


class Sum(sd.Denoiser):
    """x plus all the numbers of the prompt, plus those of a table that all samples share."""

    calls = 0

    def forward(self, x, t, cond=None):
        self.calls += 1
        prompt = cond["prompt"]
        assert len(prompt) == len(x)
        return x + prompt.sum((1, 2))[:, None] + cond["table"].sum()


@pytest.mark.parametrize(("null", "table"), [(4, None), (2, torch.ones(7))])
def test_what_cannot_be_one_batch_is_two_calls(null, table, x):
    shared = torch.zeros(1).expand(5) if table is None else table
    denoiser = Sum(sd.VPSDE())
    guided = ClassifierFreeGuidance(denoiser, 3.0, {"prompt": torch.zeros(1, null, 1), "table": shared})
    result = guided(x, 0.4, {"prompt": torch.ones(1, 2, 1), "table": shared})
    torch.testing.assert_close(result, x + 6 + shared.sum())
    assert denoiser.calls == 2


class Conditional(torch.nn.Module):
    """A network (b, 2) -> (b, 2 or 4) that depends on everything that it is told."""

    def __init__(self, channels=2):
        super().__init__()
        self.register_buffer("weight", torch.tensor([[0.5, -1.0, 0.3, 0.7], [1.0, 0.2, -0.4, 0.1]], dtype=torch.float64)[:, :channels])

    def forward(self, x, c_noise, cond=None):
        assert len(x) == len(c_noise) == len(cond)
        return torch.tanh(x @ self.weight + c_noise.double()[:, None] + cond[:, None])


@pytest.mark.parametrize("parameterization", [sd.Epsilon(), sd.X0(), sd.EDM()], ids=str)
def test_the_fast_path_is_the_prediction_itself(parameterization, x):
    sde = sd.VPSDE()
    guided = ClassifierFreeGuidance(sd.NetworkDenoiser(Conditional(), sde, parameterization), 3.0, null=0.0)
    cond, times = LABELS.double(), torch.tensor([0.9, 0.3], dtype=torch.float64)
    for t, prediction in zip(times, guided.at(times, x), strict=True):
        torch.testing.assert_close(prediction(x, cond), guided(x, t, cond))
        torch.testing.assert_close(prediction(x), guided(x, t))


def test_a_sampler_that_steps_per_sample_agrees_with_one_that_does_not(x):
    sde = sd.VPSDE()
    guided = ClassifierFreeGuidance(Classes(sde), 2.0, null=NONE)
    samples = sd.sample(guided, sd.AdaptiveODE(rtol=1e-6, atol=1e-8), x=x, cond=LABELS)
    reference = sd.sample(guided, sd.Heun(), steps=400, x=x, cond=LABELS)
    torch.testing.assert_close(samples, reference, rtol=0, atol=1e-3)


def test_the_learned_variance_is_that_of_the_condition(x):
    network = sd.NetworkDenoiser(Conditional(4), sd.DDPMChain(sd.linear_betas(10)), sd.LearnedVariance())
    guided = ClassifierFreeGuidance(network, 3.0, null=0.0)
    x0_hat, v = guided.with_variance(x, 0.5, LABELS.double())
    torch.testing.assert_close(x0_hat, guided(x, 0.5, LABELS.double()))
    torch.testing.assert_close(v, network.with_variance(x, 0.5, LABELS.double())[1])


def test_a_scale_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="got nan; 1 is no guidance"):
        ClassifierFreeGuidance(Classes(sd.VPSDE()), float("nan"))
