"""Ridge regression and running moments against what they are by definition."""

from __future__ import annotations

import pytest
import torch

from genpoe.editors.parts.moments import Moments
from genpoe.editors.parts.ridge import SingularError, ridge_update, solve_positive


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("count", [1, 5, 8, 20])
def test_both_forms_of_the_ridge_are_the_normal_equations(count):
    keys, values = random(8, count), random(8, count, seed=1)  # square: o = i
    update = ridge_update(keys, values, 0.3)
    left = update @ (keys @ keys.T + 0.3 * torch.eye(8).double())
    assert torch.allclose(left, values @ keys.T, atol=1e-10)
    dual = values @ torch.linalg.inv(keys.T @ keys + 0.3 * torch.eye(count).double()) @ keys.T
    assert torch.allclose(update, dual, atol=1e-10)


def test_limits_of_the_ridge():
    keys, values = random(8, 3), random(6, 3, seed=1)
    assert float(ridge_update(keys, values, 1e12).abs().max()) < 1e-8
    twice = ridge_update(torch.cat([keys, keys], 1), torch.cat([values, values], 1), 0.6)
    assert torch.allclose(twice, ridge_update(keys, values, 0.3), atol=1e-12)
    assert torch.allclose(ridge_update(keys, values, 1e-12) @ keys, values, atol=1e-8)


def test_singular_systems_are_refused():
    key = random(4, 1)
    with pytest.raises(SingularError, match="what it is must be positive definite"):
        solve_positive(key @ key.T - torch.eye(4).double(), key, "what it is")
    nearly = torch.diag(torch.tensor([1.0, 1e-320]).double())
    with pytest.raises(SingularError):
        solve_positive(nearly, torch.ones(2, 1), "what it is")
    with pytest.raises(SingularError):
        solve_positive(torch.full((2, 2), torch.nan), torch.ones(2, 1), "what it is")


def test_moments_of_batches_are_those_of_all_samples():
    samples = 1e4 + random(40, 3)
    moments = Moments()
    for part in samples.split([1, 7, 30, 0, 2]):
        moments = moments.updated(part)
    assert moments.count == 40
    assert torch.allclose(moments.mean, samples.mean(0), rtol=1e-12)
    assert torch.allclose(moments.std, samples.std(0), rtol=1e-10)
    whole = Moments().updated(samples)
    assert torch.allclose(moments.normalised(samples), whole.normalised(samples), atol=1e-8)


def test_many_samples_in_half_precision_are_counted():
    ones = torch.ones(300, 1, dtype=torch.bfloat16)  # in bfloat16, 256 + 1 = 256
    moments = Moments()
    for part in ones.split(1):
        moments = moments.updated(part)
    assert moments.count == 300
    assert float(moments.mean) == 1


def test_one_sample_has_no_standard_deviation():
    with pytest.raises(ValueError, match="at least two samples, got 1"):
        Moments().updated(torch.ones(1, 2)).normalised(torch.ones(1, 2))
