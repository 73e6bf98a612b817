"""Where a neighbour is wrong or is not what its name says: what it measures and what ours measures, before the same exact oracle.

The oracles are those of benchmarks/audit.py: the distance to the exact end of the probability flow on a mixture, and the exact law of the
output on Gaussian data. A test fails when the neighbour is mended, which is how we learn of it.
"""

import itertools
import math

import _peers
import audit
import pytest
import torch

import sde_diffusion as sd

VE, VP = sd.VESDE(0.02, 20.0), sd.VPSDE()
CHAIN = sd.DDPMChain(sd.linear_betas(1000))


def flow_order(run, sde, counts=(192, 384), **options) -> float:
    return audit.slope(audit.flow_errors(run, sde, counts, **options), counts)


def weak_order(run, sde, counts=(128, 256), **options) -> float:
    return audit.slope(audit.law_errors(run, sde, counts, **options), counts)


def needs(library: str):
    return pytest.mark.skipif(_peers.version(library) is None, reason=f"{library} is not installed")


pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("DeprecationWarning", "FutureWarning")]


@needs("azula")
@pytest.mark.parametrize("order", [2, 3])
def test_azulas_rosenbrock_solver_is_of_order_1(order):
    # sqrt(alpha_s^2 + sigma_t^2) has sigma_t for sigma_s
    assert flow_order(_peers.azula_sampler("REAB", order=order), VE) == pytest.approx(1.0, abs=0.1)
    assert flow_order(audit.ours(sd.AdamsBashforth(order)), VE) > order - 0.15


@needs("k-diffusion")
def test_k_diffusions_3m_is_of_order_2_and_has_the_smaller_error_on_few_steps():
    # its D2 is a divided difference, half of the second derivative that its formula multiplies
    theirs, mended = _peers.k_sampler("dpmpp_3m_sde", eta=0.0), audit.ours(sd.DPMSolverPP(3, exact=True))
    assert flow_order(theirs, VE) == pytest.approx(2.0, abs=0.15)
    assert flow_order(mended, VE) == pytest.approx(3.0, abs=0.15)
    few, many = regimes(theirs, mended)
    assert few < 0.6
    assert many > 7


def regimes(theirs, mended) -> list[float]:
    """Their error over ours in 12 and in 384 steps of Karras et al.'s grid."""
    errors = (audit.flow_errors(run, VE, (12, 384), grid=sd.karras) for run in (theirs, mended))
    return [wrong / right for wrong, right in zip(*errors, strict=True)]


def ipndm_v(denoiser, x, grid, noise, order: int = 4, mended: bool = False):
    """diff-sampler's ipndm_v of order 2 to 4, transcribed with its three slips, or without them."""
    sigma, slopes = denoiser.sde.sigma(grid).tolist(), []
    for i, t in enumerate(grid[:-1]):
        slopes.insert(0, denoiser.eps(x, t))
        h = [sigma[i - j + 1] - sigma[i - j] for j in range(min(i, order - 1) + 1)]
        terms = [[1.0, 0.0, 0.0, 0.0]]
        if len(h) > 1:
            r = h[0] / h[1]
            terms.append([r / 2, -r / 2, 0.0, 0.0])
        if len(h) > 2:
            A, B = h[0] / (3 * (h[0] + h[1])), h[0] * (h[0] + h[1]) / (h[1] * (h[1] + h[2]))
            c, r = (1 - A) / 2 * B if mended else (1 - A * B) / 2, h[1] / h[2]  # the bracket closes too late
            terms.append([c, -c * (1 + r), c * r, 0.0])
        if len(h) > 3:
            C = (1 - h[0] / (2 * (h[0] + h[1]))) * h[0] / (6 * (h[0] + h[1] + h[2]))
            D = B * sum(h[:3]) / sum(h[1:])
            c = ((1 - A) / 2 - C if mended else (1 - A) / 2 + C) * D  # + for -
            q = h[1] * (h[1] + h[2]) / (h[2] * (h[2] + h[3]))
            terms.append([c, -c * (1 + r + q), c * (r + q * (1 + h[2] / h[3])), -c * q * (h[2] / h[3] if mended else r)])  # h1/h2 for h2/h3
        x = x + h[0] * sum(sum(w) * slope for w, slope in zip(zip(*terms, strict=True), slopes, strict=False))
    return x


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("mended", [False, True])
def test_ipndm_as_published_is_diff_samplers_with_three_slips(compare, order, mended):
    solver = sd.IPNDM(order, variable_step=True, published=not mended)
    for grid in (sd.karras(VE, 12), sd.log_snr(VE, 12), sd.sigma_uniform(VE, 12)):
        theirs = lambda *job: ipndm_v(*job, order=order, mended=mended)  # noqa: E731
        assert compare(VE, solver, theirs, grid) < 1e-10


def test_on_equal_steps_the_published_ipndm_v_has_57_24ths():
    sde = sd.EDMSDE(rho=1.0)
    grid = sd.uniform(sde, 8)
    p = sd.IPNDM(4, variable_step=True, published=True).tableau(sde, grid).p[5] / (sde.sigma(grid[1]) - sde.sigma(grid[0]))
    assert (24 * p).tolist() == pytest.approx([57, -65, 43, -11])
    # the third slip cancels on equal steps; Adams and Bashforth have 55, -59, 37, -9
    assert p.sum().item() == pytest.approx(1.0)


def test_the_published_ipndm_v_is_of_order_2_and_has_the_smaller_error_on_few_steps():
    published, mended = (audit.ours(sd.IPNDM(4, variable_step=True, published=p)) for p in (True, False))
    assert flow_order(published, VE, (384, 768), grid=sd.karras) == pytest.approx(2.0, abs=0.2)
    assert flow_order(mended, VE, (768, 1536)) == pytest.approx(4.0, abs=0.15)
    few, _ = regimes(published, mended)
    assert few < 0.5
    errors = [audit.flow_errors(run, VE, (192,), grid=sd.karras)[0] for run in (published, mended)]
    assert errors[0] > 15 * errors[1]


def vary_coeff(denoiser, x, grid, noise, order: int = 3, mended: bool = False):
    """UniPC's official variant "vary_coeff" (Zhao et al. 2023), transcribed with its corrector's slip, or without it; alpha = 1."""
    lam, sigma = denoiser.sde.log_snr(grid).tolist(), denoiser.sde.sigma(grid).tolist()
    models = [denoiser(x, grid[0])]
    for i in range(len(grid) - 1):
        h, q = lam[i + 1] - lam[i], min(order, i + 1)
        places = torch.tensor([(lam[i - j] - lam[i]) / h for j in range(1, q)] + [1.0], dtype=torch.float64)
        differences = [(models[j] - models[0]) / places[j - 1] for j in range(1, q)]
        phi, first = [math.expm1(-h)], sigma[i + 1] / sigma[i] * x - math.expm1(-h) * models[0]
        for k in range(1, q + 1):
            phi.append(phi[-1] / -h - 1 / math.factorial(k))
        matrix = torch.stack([places**k / math.factorial(k + 1) for k in range(q)], 1)
        x = first
        if q > 1:
            inverse = torch.linalg.inv(matrix[:-1, :-1])
            x = first - sum(phi[k + 1] * inverse[k, j] * d for k in range(q - 1) for j, d in enumerate(differences))
        if i == len(grid) - 2:
            return x
        models.insert(0, denoiser(x, grid[i + 1]))
        inverse, differences = torch.linalg.inv(matrix), [*differences, models[0] - models[1]]
        x = first
        for k in range(q):
            for j, d in enumerate(differences):
                if mended or (j < q - 1 and k < q - 1):
                    x = x - phi[k + 1] * inverse[k, j] * d
        if not mended:  # of what the end contributes, one term alone, and that with the row before
            x = x - phi[q] * inverse[max(q - 2, 0), -1] * differences[-1]
    raise AssertionError


@pytest.mark.parametrize("order", [2, 3])
def test_unipcs_official_vary_coeff_is_of_order_1(order):
    theirs, mended = (lambda *job, mended=mended: vary_coeff(*job, order=order, mended=mended) for mended in (False, True))
    assert flow_order(theirs, VE) == pytest.approx(1.0, abs=0.15)
    assert flow_order(mended, VE) > order + 0.7
    assert flow_order(audit.ours(sd.UniPC(order, lower_final=0)), VE) > order + 0.7


@needs("diffusers")
def test_diffusers_ddim_with_trailing_timesteps_does_not_converge_where_n_does_not_divide_1000():
    # it steps to t - 1000//n, not to its next timestep
    denoiser, x = audit.mixture(CHAIN), audit.start(CHAIN)
    exact = sd.sample(denoiser, sd.Heun(), x=x, grid=sd.karras(CHAIN, 400))
    theirs = _peers.diffusers_scheduler("DDIM", timestep_spacing="trailing")
    errors = {}
    for n in (10, 160, 600):
        grid = sd.chain_grid(CHAIN, n, spacing="trailing")
        for name, run in (("diffusers", theirs), ("ours", audit.ours(sd.DDIM()))):
            errors[name, n] = (run(denoiser, x, grid, torch.zeros_like) - exact).norm(dim=1).mean().item()
    assert errors["diffusers", 10] == pytest.approx(errors["ours", 10], abs=1e-10)
    assert errors["diffusers", 600] > errors["diffusers", 10]
    assert errors["ours", 600] < errors["ours", 160] / 3 < errors["ours", 10] / 20


@needs("diffusers")
def test_diffusers_third_order_on_karras_sigmas_down_to_sigma_min_is_not_a_number():
    # the last sigma stands twice in its grid, so that a step has length 0
    import diffusers

    scheduler = diffusers.DPMSolverMultistepScheduler(solver_order=3, use_karras_sigmas=True, final_sigmas_type="sigma_min")
    scheduler.set_timesteps(20)
    x = torch.ones(1, 2)
    for t in scheduler.timesteps:
        x = scheduler.step(torch.zeros_like(x), t, x).prev_sample
    assert x.isnan().all()
    ours = sd.sample(audit.mixture(VP), sd.DPMSolverPP(3, published=True), x=audit.start(VP), grid=sd.karras(VP, 20))
    assert ours.isfinite().all()


@needs("diffusers")
def test_diffusers_stochastic_third_order_is_of_weak_order_1():
    # its quadratic term has + D2 (-phi_3 - 1) where k-diffusion has - D2 phi_3: the sign of one half is wrong
    options = {"solver_order": 3, "algorithm_type": "sde-dpmsolver++", "lower_order_final": False}
    assert weak_order(_peers.diffusers_scheduler("DPMSolverMultistep", **options), VP) == pytest.approx(1.0, abs=0.15)
    for published in (False, True):
        assert weak_order(audit.ours(sd.DPMSolverPP(3, stochastic=True, published=published)), VP) > 1.9


def churn_without_rescaling(denoiser, x, grid, noise, s_churn: float = 10.0, s_max: float = 0.7):
    """EDM's stochastic Heun with sigma(t) of another process put in: the noise grows, the signal stays (physicsnemo, on VP)."""
    sde = denoiser.sde
    for t, s in itertools.pairwise(grid):
        sigma = sde.sigma(t)
        if sigma <= s_max:
            hat = (1 + min(s_churn / (len(grid) - 1), 2**0.5 - 1)) * sigma
            x = x + (hat**2 - sigma**2).sqrt() * noise(x)
            t = sde.t_of_log_snr(0.5 * torch.log1p(-(hat**2)) - hat.log())
        x = sd.sample(denoiser, sd.Heun(), x=x, grid=torch.stack([t, s]))
    return x


def test_churn_that_leaves_the_signal_as_it_is_does_not_converge_on_vp():
    wrong = audit.law_errors(churn_without_rescaling, VP, (50, 400))
    right = audit.law_errors(audit.ours(sd.Churn(sd.Heun(), 10.0, 0.0, 3.0, 1.0)), VP, (50, 400))
    assert min(wrong) > 0.05
    assert wrong[1] > 0.5 * wrong[0]
    assert right[1] < 1e-3


@needs("k-diffusion")
def test_k_diffusions_dpmpp_sde_is_of_weak_order_1_with_independent_noise():
    # it is of order 2 with the Brownian tree that it makes by itself; whoever passes a noise_sampler gets what he passes
    assert weak_order(_peers.k_sampler("dpmpp_sde", brownian=True), VE) > 1.9
    assert weak_order(_peers.k_sampler("dpmpp_sde", brownian=False), VE) == pytest.approx(1.0, abs=0.15)
    assert weak_order(audit.ours(sd.Midpoint("x0", eta=1.0)), VE) > 1.9


def dpmpp_sde(correlation):
    """k-diffusion's sampler with this squared correlation between the noise of a step from sigma to s and that of its half, to u."""

    def run(denoiser, x, grid, noise):
        half = None

        def correlated(sigma, after):
            nonlocal half
            if half is None:
                half = after, noise(x)
                return half[1]
            (u, first), half = half, None
            c2 = correlation(sigma, u, after)
            return c2.sqrt() * first + (1 - c2).sqrt() * noise(x)

        return _peers.k_sampler("dpmpp_sde", noise_sampler=correlated)(denoiser, x, grid, noise)

    return run


@needs("k-diffusion")
def test_k_diffusions_dpmpp_sde_is_ours_when_its_noise_has_the_correlation_of_the_process(compare):
    # both share the path of B in forms.py, of variance sigma^-2
    theirs = dpmpp_sde(lambda sigma, u, s: (u**-2 - sigma**-2) / (s**-2 - sigma**-2))
    assert compare(VE, sd.Midpoint("x0", eta=1.0), theirs, sd.karras(VE, 12)) < 1e-10


@needs("k-diffusion")
def test_k_diffusions_dpmpp_sde_has_the_better_law_with_its_tree_whose_noise_is_not_that_of_the_process():
    # Both are of order 2 since the half's noise has about half of the step's variance. A third order in the law of Gaussian data asks that
    # its covariance with the step's be that of the mean of B over the step, V/2 for V = s^-2 - sigma^-2. The squared correlation is then
    # V/(4 (u^-2 - sigma^-2)) = 1/2 + h/4 + O(h^2) for a step of h in log-SNR; B's own value at u has 1/2 - h/4, the tree 1/2 + h/8.
    counts = (128, 256)
    tree = dpmpp_sde(lambda sigma, u, s: (sigma - u) / (sigma - s))
    mean = dpmpp_sde(lambda sigma, u, s: (s**-2 - sigma**-2) / (4 * (u**-2 - sigma**-2)))
    ours, tree, mean = (audit.law_errors(run, VE, counts) for run in (audit.ours(sd.Midpoint("x0", eta=1.0)), tree, mean))
    assert 2.5 < ours[0] / tree[0] < ours[1] / tree[1] < 4  # which it tends to, (1/4 + 1/4)/(1/4 - 1/8)
    assert audit.slope(mean, counts) > 2.7


@needs("torchdiffeq")
def test_torchdiffeq_asks_for_the_score_outside_the_interval():
    # it steps over the end and interpolates; on VP the score at t < 0 is not a number
    grid = torch.tensor([VE.t_max, VE.t_min], dtype=torch.float64)
    assert audit.outside(_peers.torchdiffeq_odeint("dopri5", rtol=1e-3, atol=1e-3), VE, grid) > 0.01
    assert audit.outside(audit.ours(sd.AdaptiveODE(rtol=1e-3, atol=1e-3)), VE, grid) == 0.0


@needs("torchdiffeq")
def test_torchdiffeqs_dopri5_changes_a_sample_with_its_batch():
    # one error norm for the whole batch
    grid = torch.tensor([VE.t_max, VE.t_min], dtype=torch.float64)
    assert audit.coupling(_peers.torchdiffeq_odeint("dopri5", rtol=1e-5, atol=1e-5), VE, grid) > 1e-7
    assert audit.coupling(audit.ours(sd.AdaptiveODE(rtol=1e-5, atol=1e-5)), VE, grid) < 1e-12


@needs("k-diffusion")
def test_k_diffusions_adaptive_solver_changes_a_sample_with_its_batch():
    assert audit.coupling(_peers.k_adaptive(rtol=1e-2), VE, sd.karras(VE, 1)) > 1e-2
    assert audit.coupling(audit.ours(sd.AdaptiveODE(rtol=1e-2, atol=1e-2)), VE, sd.karras(VE, 1)) < 1e-12


@needs("diffusers")
def test_diffusers_churn_asks_the_network_before_it_adds_the_noise():
    # so it is no step from the higher level, and EDMEuler's has c_skip and c_out of another level than the network's; still of order 1
    def error(run) -> float:
        return audit.law_errors(run, VE, (256,))[0]

    theirs = [error(_peers.diffusers_scheduler(name, step={"s_churn": 40.0})) for name in ("EDMEuler", "EulerDiscrete")]
    ours = [error(audit.ours(sd.Churn(solver, 40.0, 0.0, 1000.0, 1.0))) for solver in (sd.Euler(), sd.Heun())]
    assert theirs[0] > 3 * ours[0]
    assert theirs[1] > ours[0]
    assert ours[1] < ours[0] / 20


@needs("diffusers")
def test_diffusers_sa_solver_is_by_default_stochastic_in_the_middle_of_the_chain_only_and_has_the_same_law():
    # tau_func is 1 for timesteps 200 to 800, 0 elsewhere; any tau(t) keeps the marginals, ours is constant
    theirs = _peers.diffusers_scheduler("SASolver", predictor_order=2, corrector_order=3, lower_order_final=False)
    assert audit.law_errors(theirs, VP, (256,))[0] < 2e-3
    assert audit.law_errors(audit.ours(sd.SASolver(2)), VP, (256,))[0] < 2e-3


@needs("k-diffusion")
def test_a_last_step_to_noise_free_data_is_of_first_order_with_us_and_extrapolates_in_k_diffusions_lms():
    # epsilon has no limit that a polynomial through its values at other levels would find
    ladder = sd.VESDE(0.02, 20.0).discretize(1000)
    denoiser, x = audit.mixture(ladder), audit.start(ladder)
    exact = sd.sample(denoiser, sd.Heun(), x=x, grid=sd.karras(ladder, 600))

    def errors(n: int) -> list[float]:
        runs = audit.ours(sd.AdamsBashforth(4, "epsilon")), _peers.k_sampler("lms", order=4)
        return [(run(denoiser, x, sd.karras(ladder, n), torch.zeros_like) - exact).norm(dim=1).mean().item() for run in runs]

    ours, theirs = errors(12)
    assert theirs == pytest.approx(ours, rel=0.05)
    ours, theirs = errors(80)
    assert theirs > 5 * ours
