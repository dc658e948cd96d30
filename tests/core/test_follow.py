"""core.follow: what is asked for ahead of starts that begin, go on, jump about, come back, and leave."""

import random

import pytest

from lazysif.core.follow import Follower, FollowLimits

SIZE = 128 << 10
PATH = random.Random(5).sample(range(10_000), 1200)


def follower(*paths, **limits):
    return Follower(paths or [PATH], lambda _: SIZE, FollowLimits(**limits))


def ask(it, missing=lambda _: True):
    return [block for batch in it.ask(missing).fetch for block in batch]


def run(it, blocks, missing=lambda _: True):
    """Touch and ask in turn. What was asked for, and how many touches met a block that was not."""
    asked, unasked = set(), 0
    for block in blocks:
        unasked += block not in asked
        it.touch(block)
        asked.update(ask(it, missing))
    return asked, unasked


def test_the_first_touch_brings_four_mebibytes_in_the_order_of_the_trace():
    it = follower()
    it.touch(PATH[0])
    assert ask(it) == PATH[1:33]
    assert ask(it) == []


def test_as_much_is_ahead_as_was_touched_so_that_a_short_job_wastes_little():
    for length in (1, 20, 100, 400):
        asked, _ = run(follower(), PATH[:length])
        assert len(asked) <= length + max(length, 32)


def test_the_window_has_an_end():
    asked, _ = run(follower(lead_bytes=64 * SIZE), PATH[:600])
    assert max(PATH.index(block) for block in asked) <= 600 + 64


def test_batches_are_small_and_no_dribble():
    it, sizes = follower(), []
    for block in PATH:
        it.touch(block)
        sizes += [len(batch) for batch in it.ask(lambda _: True).fetch]
    assert max(sizes) <= 48
    assert sum(sizes) == len(PATH) - 1
    assert sum(size < 8 for size in sizes) <= 2, sizes


def test_lateness_grows_the_window():
    early, late = follower(), follower()
    for block in PATH[:20]:
        early.touch(block)
        late.touch(block, late=True)
    assert len(ask(late)) > len(ask(early))


@pytest.mark.parametrize("shuffled", [2, 10, 40, 150])
def test_starts_need_not_keep_to_the_order(shuffled):
    rng = random.Random(shuffled)
    order = sorted(range(len(PATH)), key=lambda position: position + rng.uniform(0, shuffled))
    asked, unasked = run(follower(), [PATH[position] for position in order])
    assert unasked < 0.05 * len(PATH)
    assert asked <= set(PATH)


def test_a_start_that_jumps_ahead_and_comes_back_is_followed_in_both_places():
    there_and_back = [*PATH[:20], *PATH[300:340], *PATH[20:300], *PATH[340:]]
    _, unasked = run(follower(), there_and_back)
    assert unasked <= 1 + 16


def test_a_start_that_joins_in_the_middle_must_prove_that_it_follows():
    it = follower()
    for block in PATH[500:502]:
        it.touch(block)
        assert ask(it) == []
    it.touch(PATH[502])
    assert ask(it)[:4] == PATH[503:507]


def test_random_reads_on_a_known_path_ask_for_little():
    whole = list(range(10_000))
    asked, _ = run(follower(whole), random.Random(6).sample(whole, 300))
    assert len(asked) < 300


def test_paths_with_one_beginning_share_a_window_and_the_right_one_goes_on():
    common = PATH[:40]
    jobs = [[*common, *range(20_000 + 500 * n, 20_000 + 500 * n + 300)] for n in range(8)]
    it = follower(*jobs)
    it.touch(common[0])
    first = ask(it)
    assert first[: len(common) - 1] == common[1:], (
        "the same blocks, once: they are needed whichever job it is"
    )
    assert len(first) <= len(common) - 1 + 16, "and little of what one job in eight needs"
    asked, unasked = run(it, [*common, *jobs[3][40:]])
    assert unasked < 48
    in_vain = asked - set(jobs[3])
    assert len(in_vain) * SIZE < 12e6, "seven other jobs got a share of the window until they were left"


def test_a_job_with_a_path_of_its_own_is_not_taken_for_the_longer_one_that_begins_alike():
    short = PATH[:200]
    asked, unasked = run(follower(PATH, short), short)
    assert unasked == 1
    assert len(asked - set(short)) <= 48
    asked, unasked = run(follower(PATH, short), PATH)
    assert asked == set(PATH[1:])
    assert unasked <= 1 + 16, "and the longer one goes on where the shorter one ends"


def test_a_job_that_begins_as_two_others_has_its_blocks_before_it_leaves_them():
    """Regression: of what is not common to all 2 MiB were asked for, the common blocks counted in, and no more until
    the job had left the shorter path: `python3 -c pass` beside `/bin/true` waited 25 ms for the rest of its own."""
    true, python = PATH[:18], PATH[:12] + PATH[100:147]
    light = python + PATH[200:320]
    it = follower(light, python, true)
    it.touch(PATH[0])
    assert len(set(python[1:]) - set(ask(it))) <= 6
    fetched, _ = run(follower(light, python, true), true)
    assert len(fetched) * SIZE < 9e6, "and who goes the shorter way does not pay much for it"


def test_what_is_doubtful_is_no_dribble_either():
    """Regression: each touch that proved a doubt right asked for one more block, in a request of its own."""
    it, sizes = follower(PATH, PATH[:20] + list(range(20_000, 20_400))), []
    for block in PATH[:400]:
        it.touch(block)
        sizes += [len(batch) for batch in it.ask(lambda _: True).fetch]
    assert sum(size < 8 for size in sizes) <= 2, sizes


def test_a_short_path_is_asked_for_whole_and_a_long_one_is_not():
    short = PATH[:64]
    it = follower(short)
    it.touch(short[0])
    assert ask(it) == short[1:]
    it = follower(PATH[:65])
    it.touch(PATH[0])
    assert ask(it) == PATH[1:33]


def test_what_all_paths_share_is_asked_for_at_once_up_to_a_bound():
    it = follower(PATH, PATH[:400], sure_bytes=100 * SIZE)
    it.touch(PATH[0])
    assert ask(it) == PATH[1:101]


def test_what_is_cached_is_loaded_not_too_far_ahead():
    it = follower()
    loaded = []
    for block in PATH[:400]:
        it.touch(block)
        answer = it.ask(lambda _: False)
        assert answer.fetch == []
        loaded += answer.load
    assert len(loaded) == len(set(loaded))
    assert max(PATH.index(block) for block in loaded) <= 400 + (16 << 20) // SIZE


def test_in_vain_is_bounded_whatever_starts_do():
    rng = random.Random(7)
    jobs = [rng.sample(range(10_000), 1000) for _ in range(16)]
    it = follower(*jobs)
    asked, touched = set(), set()
    for _ in range(60):
        job, begin = rng.choice(jobs), rng.randrange(900)
        for block in job[begin : begin + rng.randrange(100)]:
            it.touch(block, late=True)
            touched.add(block)
            asked.update(ask(it))
    assert len(asked - touched) * SIZE <= 64 << 20


def test_what_was_doubtful_may_be_given_once_the_start_has_left_the_other_path():
    """Regression: what had come while it was in doubt was never given, and a Python start beside `/bin/true` asked
    for each block of its own."""
    true, python = PATH[:18], PATH[:12] + PATH[100:147]
    it = follower(python, true)
    it.touch(PATH[0])
    assert not it.left_a_path()
    came = set(ask(it))
    own = [block for block in PATH[110:140] if block in came]
    assert len(own) > 20
    assert not any(map(it.give, own)), "only one of the two needs them"
    for block in [*PATH[1:12], *PATH[100:105]]:
        it.touch(block)
        assert not it.left_a_path()
    it.touch(PATH[105])
    assert it.left_a_path()
    assert not it.left_a_path(), "told once"
    given = [block for block in own if it.give(block)]
    assert len(given) > len(own) // 2
