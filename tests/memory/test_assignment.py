"""Who works on which partition: everything has an owner, shares are even, and little moves."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from eventml.backends.memory.group import assign

partitions = st.integers(0, 24)
members = st.lists(st.sampled_from("abcdefg"), unique=True)
owners = st.dictionaries(st.integers(0, 24), st.sampled_from("abcdefgh"))  # h is never a member


@given(partitions, members, owners)
def test_every_partition_has_one_owner_and_shares_differ_by_one_at_most(
    partitions: int, members: list[str], owners: dict[int, str]
) -> None:
    assigned = assign(partitions, members, owners)
    if not members:
        assert assigned == {}
        return
    assert sorted(assigned) == list(range(partitions))
    shares = Counter(dict.fromkeys(members, 0))
    shares.update(assigned.values())
    assert set(shares) == set(members)
    assert max(shares.values()) - min(shares.values()) <= 1


@given(partitions, members.filter(bool), owners)
def test_as_few_move_as_can_be(partitions: int, members: list[str], owners: dict[int, str]) -> None:
    assigned = assign(partitions, members, owners)
    kept = sum(1 for partition, member in assigned.items() if owners.get(partition) == member)
    assert kept == _most_that_can_stay(partitions, members, owners)


def _most_that_can_stay(partitions: int, members: list[str], owners: dict[int, str]) -> int:
    """By trying out which members get the larger shares."""
    held = Counter(owner for partition, owner in owners.items() if partition < partitions)
    share, extra = divmod(partitions, len(members))
    return max(
        sum(min(held[member], share + (member in larger)) for member in members)
        for larger in combinations(members, extra)
    )


@given(partitions, members, owners)
def test_an_even_assignment_stays(partitions: int, members: list[str], owners: dict[int, str]) -> None:
    assigned = assign(partitions, members, owners)
    assert assign(partitions, members, assigned) == assigned
    assert assign(partitions, members[::-1], assigned) == assigned, "whatever the order of the members"
