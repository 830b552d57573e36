"""Accelerators by name or by figures, and what an hour of them costs."""

import pytest

from engine.errors import SpecError
from engine.machines.accelerators import ACCELERATORS, accelerator_named
from engine.machines.machine_figures import accelerator_in, device_memory_gb
from engine.machines.prices import PRICES, price_of, prices_given


def test_an_unknown_accelerator_is_named_with_its_like_and_the_way_out():
    with pytest.raises(SpecError) as error:
        accelerator_named("H10")
    assert "H10 has no figures here" in str(error.value)
    assert "did you mean H100" in str(error.value)
    assert "--gpu H10:memory_gb=" in str(error.value)


def test_figures_make_an_accelerator_that_is_not_in_the_table_or_correct_one_that_is():
    new = accelerator_named("X9:memory_gb=64,bandwidth_tb_s=2,bf16_tflops=400,fp8_tflops=800")
    assert (new.name, new.memory_gb, new.tflops(1.0), new.tflops(0.5)) == ("X9", 64, 800, 400)
    half = accelerator_named("H200:memory_gb=70")
    assert (half.memory_gb, half.bandwidth_tb_s) == (70, 4.8)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("X9:memory_gb=64", "has no figures here"),
        ("H200:memory=64", "no figure is called memory"),
        ("H200:memory_gb=much", "no figure=number"),
    ],
)
def test_figures_that_are_none_are_refused(given, said):
    with pytest.raises(SpecError, match=said):
        accelerator_named(given)


@pytest.mark.parametrize("one", ACCELERATORS.values(), ids=ACCELERATORS)
def test_a_cluster_file_that_names_an_accelerator_has_its_memory(one):
    assert device_memory_gb(accelerator_in(one.name.lower()), one.name) == one.memory_gb


def test_prices_rise_from_low_to_high_and_are_of_known_accelerators():
    assert PRICES.keys() <= ACCELERATORS.keys()
    assert all(price.low <= price.typical <= price.high for price in PRICES.values())


def test_a_given_price_goes_before_the_table():
    assert price_of("H200", {}).typical == 4.0
    assert str(price_of("H200", {"H200": 3.5})) == "$3.5 (given)"
    assert "table of 20" in str(price_of("H200", {}))
    assert price_of("X9", {}) is None


@pytest.mark.parametrize("option", ["H200", "H200=", "H200=cheap", "=3", "H200=-1"])
def test_a_price_that_is_none_is_refused_with_an_example(option):
    with pytest.raises(SpecError, match=r"--price H200=3\.5"):
        prices_given([option])


def test_several_prices_are_taken():
    assert prices_given(["H200=3.5", "H100=2"]) == {"H200": 3.5, "H100": 2.0}
