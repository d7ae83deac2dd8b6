"""Each rung catches the fault it is there for: a gate that nothing trips is none."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from rungs import mutations, on_cpu
from rungs.mutations import MUTATIONS, RUNGS

NEEDS_PACKAGES = {"compile", "static"}


@pytest.fixture(scope="module")
def complaint(build_folder):
    """What the rung that is there for a fault says of it; two are planted at a time."""

    def climb(mutation):
        return mutations.catches(mutation.caught_by, mutation, build_folder)

    for sanitizer in on_cpu.SANITIZERS:
        on_cpu.scheduler(build_folder, sanitizer)
    with ThreadPoolExecutor(2) as pool:
        asked = {mutation: pool.submit(climb, mutation) for mutation in MUTATIONS}
    return lambda mutation: asked[mutation].result()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_planted_fault_is_caught_by_the_rung_that_is_there_for_it(request, complaint, mutation):
    if mutation.caught_by in NEEDS_PACKAGES:
        request.getfixturevalue("figures")  # skipped, with the reason, where its packages lack
    assert complaint(mutation)


def test_every_rung_has_a_fault_to_catch():
    assert {mutation.caught_by for mutation in MUTATIONS} == set(RUNGS)
