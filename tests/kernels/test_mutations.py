"""Each rung catches the fault it is there for: a gate that nothing trips is none."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from rungs import compilers, mutations, on_cpu, page
from rungs.mutations import MUTATIONS, RUNGS

NEEDS_PACKAGES = {"compile", "static"}
NEEDS_SANITIZER = {"race", "blocks", "memory"}


def can_climb(mutation):
    return compilers.IS_GNU or mutation.caught_by not in NEEDS_SANITIZER


@pytest.fixture(scope="module")
def complaint(build_folder):
    """What the rung that is there for a fault says of it; two are planted at a time."""

    def climb(mutation):
        return mutations.catches(mutation.caught_by, mutation, build_folder)

    for sanitizer in on_cpu.SANITIZERS if compilers.IS_GNU else ["none"]:
        on_cpu.scheduler(build_folder, sanitizer)
    with ThreadPoolExecutor(2) as pool:
        asked = {one: pool.submit(climb, one) for one in MUTATIONS if can_climb(one)}
    return lambda mutation: asked[mutation].result()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_planted_fault_is_caught_by_the_rung_that_is_there_for_it(request, complaint, mutation):
    if mutation.caught_by in NEEDS_PACKAGES:
        request.getfixturevalue("figures")  # skipped, with the reason, where its packages lack
    if not can_climb(mutation):
        pytest.skip(compilers.NO_RUNTIME)
    assert complaint(mutation)


def test_every_rung_has_a_fault_to_catch():
    assert {mutation.caught_by for mutation in MUTATIONS} == set(RUNGS)


def test_the_table_in_the_docs_has_every_fault_and_the_rung_that_is_there_for_it():
    lines = page.read().partition(mutations.heading() + "\n")[2].splitlines()[: len(MUTATIONS)]
    written = {}
    for line in lines:
        name, cells = line[: mutations.WIDTH].strip(), line[mutations.WIDTH :].split()
        written[name] = dict(zip(RUNGS, cells, strict=True))
    assert list(written) == [mutation.name for mutation in MUTATIONS], "nox -s mutations"
    for mutation in MUTATIONS:
        starred = {rung for rung, cell in written[mutation.name].items() if cell == "caught*"}
        assert starred == {mutation.caught_by}, mutation.name
