"""A follower asks only for missing blocks of its paths, each once, within its budget; recording covers touching."""

from hypothesis import given
from hypothesis import strategies as st

from lazysif.core.cursors import CursorLimits
from lazysif.core.follow import Follower, FollowLimits
from lazysif.core.trace import MAX_PATHS, Recording, Trace, TracePath, check, covers, merge

SIZE = 4096
COUNT = 400
LIMITS = st.builds(
    FollowLimits,
    floor_bytes=st.integers(1, 20 * SIZE),
    most_floor_bytes=st.integers(20 * SIZE, 40 * SIZE),
    lead_bytes=st.integers(SIZE, 100 * SIZE),
    load_bytes=st.integers(SIZE, 50 * SIZE),
    sure_bytes=st.integers(0, 60 * SIZE),
    doubt_bytes=st.integers(0, 60 * SIZE),
    rare_bytes=st.integers(0, 60 * SIZE),
    whole_bytes=st.integers(0, 60 * SIZE),
    budget_bytes=st.integers(0, 60 * SIZE),
    batch=st.integers(1, 48),
    least_batch=st.integers(1, 16),
    cursors=st.builds(
        CursorLimits,
        begin=st.integers(1, 16),
        proof=st.integers(1, 5),
        doze=st.integers(1, 10),
        stray=st.integers(1, 20),
        reach=st.integers(0, 32),
        most=st.integers(1, 4),
    ),
)
BLOCKS = st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=150, unique=True)


def path(blocks, used_s=0):
    return TracePath(tuple(blocks), tuple(range(len(blocks))), used_s)


def length(block):
    """Blocks differ in length."""
    return SIZE // (1 + block % 3)


@st.composite
def starts(draw):
    """Some paths, and starts that follow them here and there, interleaved with touches of anything."""
    paths = draw(st.lists(BLOCKS, min_size=1, max_size=4))
    touches = []
    for _ in range(draw(st.integers(1, 8))):
        if draw(st.booleans()):
            taken = draw(st.sampled_from(paths))
            begin = draw(st.integers(0, len(taken) - 1))
            touches += taken[begin : begin + draw(st.integers(1, 80))]
        else:
            touches += draw(st.lists(st.integers(0, COUNT - 1), max_size=20))
    return paths, touches


@given(LIMITS, starts(), st.sets(st.integers(0, COUNT - 1)), st.data())
def test_only_missing_blocks_of_the_paths_each_once_within_the_budget(limits, case, cached, data):
    paths, touches = case
    known = {block for blocks in paths for block in blocks}
    follower = Follower(paths, length, limits)
    asked, loaded, touched = [], [], set()
    for block in touches:
        follower.touch(block, late=data.draw(st.booleans()))
        touched.add(block)
        ask = follower.ask(lambda index: index not in cached)
        assert all(0 < len(batch) <= limits.batch for batch in ask.fetch)
        fetch = [index for batch in ask.fetch for index in batch]
        assert not touched.intersection(fetch), "what was touched is there, or on its way"
        assert not cached.intersection(fetch)
        asked += fetch
        loaded += ask.load
        in_vain = sum(length(index) for index in set(asked) - touched)
        assert in_vain == follower.pending_bytes <= limits.budget_bytes
    assert len(asked) == len(set(asked))
    assert len(loaded) == len(set(loaded))
    assert set(asked) | set(loaded) <= known


@given(BLOCKS)
def test_a_start_that_was_recorded_and_is_followed_waits_for_little(blocks):
    recording = Recording(0.0)
    for position, block in enumerate(blocks):
        recording.add(block, position / 1000)
    recorded = recording.path(used_s=1)
    if recorded is None:
        return
    follower = Follower([recorded.blocks], lambda _: SIZE, FollowLimits(floor_bytes=8 * SIZE, least_batch=4))
    asked = set()
    for block in blocks:
        follower.touch(block)
        asked.update(index for batch in follower.ask(lambda _: True).fetch for index in batch)
    assert asked == set(blocks[1:])


@given(BLOCKS, st.booleans())
def test_a_start_whose_reads_the_kernel_answers_is_followed_to_the_end(blocks, cached):
    """Given blocks are touched unseen, and still all is asked for, and all but the very last is known to be read."""
    follower = Follower([blocks], lambda _: SIZE, FollowLimits(floor_bytes=64 * SIZE, least_batch=4))
    asked, known, given_ahead = set(), set(), set()
    for block in blocks:
        if block in given_ahead:
            continue
        shown = follower.touch(block)
        assert set(shown) <= given_ahead - known, "only what was given is shown, once"
        known.update(shown, (block,))
        ask = follower.ask(lambda _: not cached)
        new = [*ask.load, *(index for batch in ask.fetch for index in batch)]
        assert not known.intersection(new)
        asked.update(new)
        given_ahead.update(index for index in new if follower.give(index))
        assert not any(map(follower.give, given_ahead | known)), "given once, and not what was touched"
    assert asked == set(blocks[1:])
    assert known == set(blocks)
    assert follower.pending_bytes == 0


@given(LIMITS, starts(), st.data())
def test_the_kernel_is_given_only_what_was_asked_for_and_not_touched(limits, case, data):
    paths, touches = case
    follower = Follower(paths, length, limits)
    asked, touched, given_ahead = set(), set(), set()
    for block in touches:
        touched.update(follower.touch(block), (block,))
        ask = follower.ask(lambda _: True)
        asked.update(index for batch in ask.fetch for index in batch)
        for index in data.draw(st.lists(st.integers(0, COUNT - 1), max_size=10)) + sorted(asked)[:20]:
            if follower.give(index):
                assert index in asked - touched - given_ahead
                given_ahead.add(index)
        assert sum(length(index) for index in asked - touched) == follower.pending_bytes


@given(BLOCKS, st.lists(st.integers(COUNT, 2 * COUNT), min_size=60, max_size=200, unique=True))
def test_a_start_that_leaves_the_path_stops_it(blocks, elsewhere):
    limits = FollowLimits(floor_bytes=4 * SIZE, most_floor_bytes=8 * SIZE, least_batch=2)
    follower = Follower([blocks], lambda _: SIZE, limits)
    for block in blocks[: len(blocks) // 2]:
        follower.touch(block)
        follower.ask(lambda _: True)
    for block in elsewhere[: limits.cursors.stray]:
        follower.touch(block)
    assert not follower.following
    for block in elsewhere:
        follower.touch(block)
        assert not follower.ask(lambda _: True)


@given(st.lists(BLOCKS, max_size=40))
def test_merging_is_bounded_and_remembers_the_last(recordings):
    trace = Trace("0" * 32, COUNT * SIZE, SIZE)
    for used_s, blocks in enumerate(recordings, 1):
        new = path(blocks, used_s)
        trace = merge(trace, new)
        check(trace)
        assert len(trace.paths) <= MAX_PATHS
        assert any(covers(kept, new) for kept in trace.paths)
        assert trace.paths[0].used_s == used_s
        assert merge(trace, new) == trace, "said twice is said once"
