import pytest

from homeserver.errors import MatrixError
from homeserver.streams.tokens import SyncToken, Timelines

FIRST = (1, "aa", 0)
SECOND = (2, "bb", 100)


def test_a_token_comes_back_as_it_was() -> None:
    timelines = Timelines([FIRST])
    token = SyncToken(17, "c0ffee", 3)
    assert timelines.parse_sync(timelines.sync_token(token), applied=20) == token


def test_a_token_of_an_earlier_start_is_good_up_to_the_next_start() -> None:
    earlier = Timelines([FIRST])
    now = Timelines([FIRST, SECOND])
    at_end = earlier.sync_token(SyncToken(100, "a", 0))
    assert now.parse_sync(at_end, applied=150).pos == 100


@pytest.mark.parametrize(
    "text",
    [
        "s1_1_aa_101_a_0",  # its stretch was lost: the copy put back ended at 100
        "s1_3_cc_120_a_0",  # a start that the copy has never seen
        "s1_2_cc_120_a_0",  # another database's second start
        "s1_2_bb_99_a_0",  # before its own timeline began
        "s1_2_bb_151_a_0",  # ahead of what exists
    ],
)
def test_a_token_of_a_lost_stretch_is_answered_with_everything(text: str) -> None:
    now = Timelines([FIRST, SECOND])
    assert now.parse_sync(text, applied=150).pos == -1


@pytest.mark.parametrize("text", ["", "s1", "t1_1_aa_5", "s1_1_aa_-5_a_0", "s1_1_aa_5_a_0 ", "1"])
def test_what_was_never_a_sync_token_is_refused(text: str) -> None:
    with pytest.raises(MatrixError, match="M_INVALID_PARAM"):
        Timelines([FIRST]).parse_sync(text, applied=10)


def test_room_tokens_and_sync_tokens_both_name_a_point_in_a_room() -> None:
    timelines = Timelines([FIRST])
    assert timelines.parse_room(timelines.room_token(-12), "from") == -12
    assert timelines.parse_room(timelines.sync_token(SyncToken(9, "a", 0)), "at") == 9
    with pytest.raises(MatrixError, match="from"):
        timelines.parse_room("nonsense", "from")
