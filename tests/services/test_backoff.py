"""The pause before a process is started again."""

from services.supervised import (
    AT_ONCE_S,
    EXIT_RESTART_AT_ONCE,
    HEALTHY_AFTER_S,
    LONGEST_PAUSE_OF_READY_S,
    LONGEST_PAUSE_S,
    Backoff,
)


def test_pauses_double_up_to_the_longest() -> None:
    """Failure after failure waits 0.5, 1, 2, 4, 8, 16, 30, 30 seconds."""
    backoff = Backoff()
    assert [backoff.next_pause_s(1, 0.1) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_what_was_ready_is_back_soon_however_often_it_ends() -> None:
    """A process that is killed each time soon after it was ready is never kept away for longer than some seconds."""
    backoff = Backoff()
    pauses = [backoff.next_pause_s(-9, 2.0, was_ready=True) for _ in range(6)]
    assert pauses == [0.5, 1, 2, 4, LONGEST_PAUSE_OF_READY_S, LONGEST_PAUSE_OF_READY_S]
    assert backoff.next_pause_s(1, 0.1) == 2 * LONGEST_PAUSE_OF_READY_S


def test_a_healthy_life_resets_the_pause() -> None:
    """After ten seconds of life the pauses start from the first again."""
    backoff = Backoff()
    for _ in range(5):
        backoff.next_pause_s(1, 0.1)
    assert backoff.next_pause_s(1, HEALTHY_AFTER_S) == 0.5
    assert backoff.next_pause_s(1, 0.1) == 1


def test_exit_75_restarts_at_once_and_does_not_lengthen_the_pause() -> None:
    """A deliberate exit is answered at once, and the next failure still waits the first pause."""
    backoff = Backoff()
    assert backoff.next_pause_s(EXIT_RESTART_AT_ONCE, 20.0) == AT_ONCE_S
    assert backoff.next_pause_s(EXIT_RESTART_AT_ONCE, 20.0) == AT_ONCE_S
    assert backoff.next_pause_s(-9, 20.0) == 0.5


def test_exit_75_in_a_hot_loop_is_paused_like_a_failure() -> None:
    """When a deliberate exit follows a deliberate exit within seconds, the pauses grow."""
    backoff = Backoff()
    pauses = [backoff.next_pause_s(EXIT_RESTART_AT_ONCE, 0.3) for _ in range(4)]
    assert pauses == [AT_ONCE_S, 0.5, 1, 2]
