"""core.inodes: lookup counts, down to zero."""

from hypothesis import given
from hypothesis import strategies as st

from lazysif.core.inodes import LookupCounts
from lazysif.model import InodeNumber

A, B = InodeNumber(10), InodeNumber(11)


def test_counts_go_down_to_zero():
    counts = LookupCounts()
    for number in (A, B, A, A):
        counts.add(number)
    assert counts.forget([(A, 2)]) == []
    assert counts.held(A)
    assert counts.forget([(A, 1), (B, 1)]) == [A, B]
    assert not counts.held(A)
    assert not counts.held(B)
    assert len(counts) == 0


def test_a_number_that_is_taken_again_counts_from_one():
    counts = LookupCounts()
    counts.add(A)
    counts.forget([(A, 1)])
    counts.add(A)
    assert counts.forget([(A, 1)]) == [A]


def test_a_predecessors_number_is_forgotten_without_harm():
    counts = LookupCounts()
    counts.add(A)
    assert counts.forget([(B, 7)]) == [B]
    assert counts.forget([(A, 5)]) == [A], "the kernel may return its predecessor's counts, too"
    assert len(counts) == 0


@given(st.lists(st.integers(2, 5)), st.randoms(use_true_random=False))
def test_all_that_was_taken_and_given_back_leaves_nothing(taken, rng):
    counts = LookupCounts()
    for number in taken:
        counts.add(InodeNumber(number))
    returned = [(InodeNumber(number), 1) for number in taken]
    rng.shuffle(returned)
    gone = [number for one in returned for number in counts.forget([one])]
    assert sorted(gone) == sorted(set(taken)), "each number goes once, with its last reference"
    assert len(counts) == 0
