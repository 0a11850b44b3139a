"""The benchmarks' own code: what it is timed for is in ``benchmarks/``."""

import numpy as np
import pytest
import run as benchmark
import tiny


@pytest.mark.parametrize("warmup", [{}, {"warmup_steps": 2}, {"warmup_epochs": 1.0}])
def test_the_plain_loop_trains_with_any_warmup(digits, warmup):
    model, settings = tiny.unet(), tiny.settings(**warmup)
    losses = benchmark.bare_loop(model, digits, settings, epochs=2)
    assert len(losses) == 2 * -(-len(digits) // settings.batch_size) and np.isfinite(losses).all()
