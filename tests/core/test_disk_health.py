"""core.disk_health: normal → unstable → down → normal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazysif.core.disk_health import RELAPSE_S, STRIKES, DiskHealth, DiskState, Trouble


def test_one_trouble_stops_writes_and_leaves_reads():
    health = DiskHealth()
    health.failed(Trouble.IO, now=10)
    assert health.state is DiskState.UNSTABLE
    assert health.may_read
    assert not health.may_write
    assert not health.probe_due(10.5)
    assert health.probe_due(11)


@pytest.mark.parametrize("trouble", [Trouble.IO, Trouble.SILENCE, Trouble.DATABASE])
def test_repeated_hard_trouble_leads_to_down_and_a_probe_back(trouble):
    health = DiskHealth()
    for _ in range(STRIKES):
        health.failed(trouble, now=0)
    assert health.state is DiskState.DOWN
    assert not health.may_read
    assert health.probe_due(1)
    health.recovered(1)
    assert health.state is DiskState.NORMAL
    assert health.may_read
    assert health.may_write
    assert not health.probe_due(100)


@pytest.mark.parametrize("trouble", [Trouble.FULL, Trouble.READ_ONLY])
def test_a_full_or_read_only_disk_is_read_on(trouble):
    health = DiskHealth()
    for now in range(100):
        health.failed(trouble, now)
    assert health.state is DiskState.UNSTABLE


def test_good_reads_between_bad_ones_keep_the_disk_up():
    health = DiskHealth()
    for _ in range(10):
        health.failed(Trouble.IO, now=0)
        health.answered()
    assert health.state is DiskState.UNSTABLE


def test_pauses_grow_while_probes_fail_and_are_bounded():
    health = DiskHealth(first_pause_s=1, longest_pause_s=8)
    now, pauses = 0.0, []
    for _ in range(6):
        health.failed(Trouble.FULL, now)
        start = now
        while not health.probe_due(now):
            now += 0.5
        pauses.append(now - start)
    assert pauses == [1, 2, 4, 8, 8, 8]


def test_trouble_during_a_pause_does_not_lengthen_it():
    health = DiskHealth()
    health.failed(Trouble.FULL, 0)
    health.failed(Trouble.FULL, 0.9)
    assert health.probe_due(1.0)


def test_a_relapse_pauses_longer_and_a_late_one_starts_over():
    health = DiskHealth()
    health.failed(Trouble.FULL, 0)
    health.recovered(1)
    health.failed(Trouble.FULL, 2)
    assert not health.probe_due(3.9)
    assert health.probe_due(4)
    health.recovered(4)
    health.failed(Trouble.FULL, 4 + RELAPSE_S)
    assert health.probe_due(5 + RELAPSE_S)


events = st.lists(st.one_of(st.sampled_from(list(Trouble)), st.sampled_from(["answered", "recovered"])))


@given(events)
def test_any_history_ends_well_once_a_probe_succeeds(history):
    health = DiskHealth()
    now = 0.0
    for event in history:
        now += 0.3
        if event == "answered":
            health.answered()
        elif event == "recovered":
            health.recovered(now)
        else:
            health.failed(event, now)
        assert health.state is DiskState.NORMAL or health.probe_due(now + 60)
        assert not (health.may_write and not health.may_read)
    health.recovered(now)
    assert health.may_write
