"""Which experiment a request takes part in, and how experiments begin, change and end."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from compress.errors import InputError
from serve.experiments.assignment import pseudonym
from serve.experiments.board import Asked, Board, ExperimentConflictError, UnknownExperimentError
from serve.experiments.loaded import Loaded
from serve.experiments.memory import Memory
from serve.experiments.store.errors import StoreAwayError
from tests.serve.experiments.made import ARMS, Clock, arms, experiment
from tests.serve.switching import in_loop

USERS = [f"user-{i}" for i in range(400)]


def at(seconds: float) -> str:
    return datetime.fromtimestamp(Clock().now + seconds, UTC).isoformat()


def asked(user: str | None = "ann", **keys: Any) -> Asked:
    return Asked("request-1", user, **keys)


def taken(board: Board) -> dict[str, tuple[str, str]]:
    """Experiment and arm of every user that takes part."""
    choices = {user: board.choose(asked(user)) for user in USERS}
    return {user: (one.experiment.name, one.arm.name) for user, one in choices.items() if one is not None}


def test_a_unit_keeps_its_arm_and_no_id_is_kept():
    board, again = Board(declared=[experiment()]), Board(declared=[experiment()])
    found = taken(board)
    assert found == taken(board) == taken(again)
    counts = [arm for _, arm in found.values()].count("old")
    assert len(found) == 400 and 160 < counts < 240
    choice = board.choose(asked("ann"))
    assert choice.unit == pseudonym("trial", "ann") and "ann" not in repr((choice, asked("ann")))


def test_units_are_users_sessions_or_requests():
    for unit, who in (("user", "ann"), ("session", "s-1"), ("request", "request-1")):
        board = Board(declared=[experiment(unit=unit)])
        choice = board.choose(asked("ann", session="s-1"))
        assert choice.unit == pseudonym("trial", who)
    board = Board(declared=[experiment(unit="session")])
    assert board.choose(asked("ann")) is None is board.choose(asked("ann", session=""))
    assert board.passed == {("trial", "no_unit"): 2}


def test_only_requests_with_the_headers_take_part():
    board = Board(declared=[experiment(eligible={"headers": {"X-Plan": "free"}})])
    assert board.choose(asked(headers={"x-plan": "free"})) is not None
    assert board.choose(asked(headers={"x-plan": "paid"})) is None is board.choose(asked())
    assert board.passed == {("trial", "headers"): 2}


def test_experiments_of_one_layer_share_no_unit():
    halves = [experiment(name, eligible={"share": 0.5}) for name in ("a", "b")]
    found, first = taken(Board(declared=halves)), taken(Board(declared=halves[:1]))
    assert len(found) == 400 and 160 < len(first) < 240
    assert {user for user, (name, _) in found.items() if name == "a"} == set(first)
    with pytest.raises(InputError, match=r"'c' asks for 0\.2 of layer 'weights', and 'a', 'b' leave 0 of it"):
        Board(declared=[*halves, experiment("c", eligible={"share": 0.2})])


def test_of_two_layers_the_experiment_that_began_first_takes_the_request():
    first = experiment("z", eligible={"share": 0.5})
    second = experiment("a", layer="other")
    found = taken(Board(declared=[first, second]))
    alone = taken(Board(declared=[second]))
    mine = {user: one for user, one in found.items() if one[0] == "z"}
    assert 160 < len(mine) < 240 and len(found) == 400
    assert all(found[user] == alone[user] for user in USERS if user not in mine)
    split = [alone[user][1] for user in mine].count("old")
    assert 0.35 < split / len(mine) < 0.65, "what is taken away does not depend on the other's arms"


def test_experiments_that_never_run_together_may_share_units():
    board = Board(declared=[experiment("a", stop=at(10)), experiment("b", start=at(10))], clock=Clock())
    assert [one.state for one in board.all()] == ["running", "scheduled"]
    with pytest.raises(InputError, match="leave 0 of it"):
        Board(declared=[experiment("a", stop=at(11)), experiment("b", start=at(10))], clock=Clock())


@in_loop
async def test_an_end_cannot_move_into_anothers_time():
    # There is room beside b, but moving there would give a's units to nobody and bring it others.
    few = {"share": 0.3}
    both = [experiment("a", stop=at(10), eligible=few), experiment("b", start=at(10), eligible=few)]
    board = Board(declared=both, clock=Clock())
    with pytest.raises(InputError, match="'a' would share units of layer 'weights' with 'b'"):
        await board.change("a", experiment("a", stop=at(20), eligible=few), "longer")
    assert board.get("a").version == 1


def test_times_begin_and_end_experiments_once_whatever_the_clock_does():
    clock, keeper = Clock(), Memory()
    board = Board(keeper, [experiment(start=at(10), stop=at(20))], clock)
    assert board.choose(asked()) is None and board.get("trial").state == "scheduled"
    clock.now += 10
    assert board.choose(asked()) is not None
    clock.now -= 5
    assert board.choose(asked()) is not None, "set back, it does not end what runs"
    clock.now += 15
    assert board.choose(asked()) is None and board.get("trial").state == "stopped"
    clock.now -= 8
    assert board.choose(asked()) is None, "nor begin it again"
    asyncio.run(board.agree())
    assert Board(keeper, [experiment(start=at(10), stop=at(20))], clock).get("trial").state == "stopped"


def test_a_later_experiment_takes_nothing_from_one_that_runs_even_if_the_clock_is_set_back():
    clock = Clock()
    board = Board(declared=[experiment("z")], clock=clock)
    clock.now -= 1000
    asyncio.run(board.start(experiment("a", layer="other"), "later"))
    assert {name for name, _ in taken(board).values()} == {"z"}


@in_loop
async def test_a_change_of_shares_is_a_new_version_in_which_only_those_move_that_must():
    board = Board()
    await board.start(experiment(arms=arms(a=0.4, b=0.3, c=0.3)), "begin")
    before = taken(board)
    board.expose(board.choose(asked()))
    standing = await board.change("trial", experiment(arms=arms(a=0.2, b=0.3, c=0.5)), "more of c")
    after = taken(board)
    assert (standing.version, standing.reason, standing.state) == (2, "more of c", "running")
    moves = {(before[user][1], after[user][1]) for user in USERS}
    assert moves == {("a", "a"), ("a", "c"), ("b", "b"), ("c", "c")}
    assert board.exposures["trial"].units == {}, "versions are counted apart"
    back = await board.change("trial", experiment(arms=arms(a=0.4, b=0.3, c=0.3)), "back")
    assert back.version == 3 and board.choose(asked()).version == 3


@in_loop
async def test_who_takes_part_stays_in_when_more_may():
    board = Board()
    await board.start(experiment(eligible={"share": 0.2}), "begin")
    few = taken(board)
    await board.change("trial", experiment(eligible={"share": 0.6}), "more")
    more = taken(board)
    assert len(few) < len(more) < 300 and few.items() <= more.items()


CHANGES = [
    ({"arms": [*ARMS, {"name": "third", "share": 0}]}, "arm 'third' cannot be added"),
    ({"arms": [ARMS[0], {**ARMS[1], "name": "other"}]}, "arm 'new' cannot be taken out"),
    ({"arms": [ARMS[0], {**ARMS[1], "policy": {}}]}, "arm 'new' can only change its share"),
    ({"arms": [{**ARMS[0], "model": "t0"}, ARMS[1]]}, "arm 'old' can only change its share"),
    ({"salt": "other"}, "salt cannot change"),
    ({"unit": "session"}, "unit cannot change"),
    ({"layer": "other"}, "layer cannot change"),
    ({"alpha": 0.1}, "alpha cannot change"),
    ({"control": "new"}, "control cannot change"),
    ({"eligible": {"headers": {"x": "1"}}}, r"eligible\.headers cannot change"),
]


@pytest.mark.parametrize(("keys", "sentence"), CHANGES)
def test_what_would_mix_different_things_is_refused(keys, sentence):
    board = Board(declared=[experiment()])
    with pytest.raises(InputError, match=f"{sentence}.* while 'trial' runs.*; stop it"):
        asyncio.run(board.change("trial", experiment(**keys), "change"))
    assert board.get("trial").version == 1


def test_before_it_runs_all_may_change():
    board = Board(declared=[experiment(start=at(10))], clock=Clock())
    changed = experiment(arms=arms(x=0.5, y=0.5), salt="s", layer="other")
    standing = asyncio.run(board.change("trial", changed, "now"))
    assert (standing.state, standing.version, standing.arms.sizes) == ("running", 2, {"x": 5000, "y": 5000})


@in_loop
async def test_an_end_is_for_good_and_its_name_is_used():
    board = Board(declared=[experiment()])
    standing = await board.stop("trial", "seen enough")
    assert (standing.state, standing.version, board.choose(asked())) == ("stopped", 1, None)
    with pytest.raises(ExperimentConflictError, match="'trial' has ended: seen enough"):
        await board.stop("trial", "again")
    with pytest.raises(ExperimentConflictError, match="'trial' has ended"):
        await board.change("trial", experiment(), "change")
    with pytest.raises(ExperimentConflictError, match="'trial' is stopped; choose another name"):
        await board.start(experiment(), "again")
    with pytest.raises(UnknownExperimentError, match="no experiment 'none'; there are trial"):
        await board.stop("none", "x")
    await board.start(experiment("next"), "its traffic is free again")


@in_loop
async def test_a_restart_goes_on_where_it_was():
    keeper = Memory()
    board = Board(keeper, [experiment(arms=arms(a=0.5, b=0.5))])
    await board.change("trial", experiment(arms=arms(a=0.2, b=0.8)), "b")
    again = Board(keeper, [experiment(arms=arms(a=0.5, b=0.5))])
    assert again.all() == board.all() and taken(again) == taken(board)
    assert again.get("trial").version == 2, "the file does not undo what was changed since"


@in_loop
async def test_boards_of_one_keeper_agree():
    keeper = Memory()
    one, other = Board(keeper), Board(keeper)
    await one.start(experiment(), "begin")
    assert other.choose(asked()) is None
    await other.agree()
    assert taken(other) == taken(one)
    await other.change("trial", experiment(arms=[{**ARMS[0], "share": 1}, {**ARMS[1], "share": 0}]), "x")
    with pytest.raises(InputError, match="cannot be added"):
        await one.change("trial", experiment(arms=[*ARMS, {"name": "c", "share": 0}]), "y")
    assert one.get("trial").version == 2, "a change begins from what is kept"
    await one.stop("trial", "done")
    await other.agree()
    assert other.get("trial").state == "stopped"


class Away(Memory):
    """A keeper whose database can be away."""

    away = True

    def experiments(self) -> Any:
        if self.away:
            raise StoreAwayError("the database does not answer")
        return super().experiments()


@in_loop
async def test_without_its_keeper_a_board_waits_and_then_begins(caplog):
    keeper = Away()
    board = Board(keeper, [experiment()])
    assert board.choose(asked()) is None and "does not answer" in caplog.text
    assert board.stale
    await board.agree()
    assert not board.stale and board.all() == []
    keeper.away = False
    await board.agree()
    assert board.choose(asked()) is not None and [one.name for one in keeper.experiments()] == ["trial"]


@in_loop
async def test_a_change_that_cannot_be_kept_does_not_happen():
    class Full(Memory):
        def save_experiment(self, change: Any) -> None:
            if change.version > 1 or change.state == "stopped":
                raise StoreAwayError("full")
            super().save_experiment(change)

    board = Board(Full(), [experiment(arms=arms(a=0.5, b=0.5))])
    with pytest.raises(StoreAwayError):
        await board.change("trial", experiment(arms=arms(a=0.1, b=0.9)), "x")
    with pytest.raises(StoreAwayError):
        await board.stop("trial", "x")
    standing = board.get("trial")
    assert (standing.version, standing.state, standing.arms.sizes) == (1, "running", {"a": 5000, "b": 5000})


def test_nobody_takes_part_while_an_arm_cannot_be_answered(caplog):
    board = Board(declared=[experiment(arms=[ARMS[0], {"name": "t", "model": "sorting", "share": 0.5}])])
    for generation in (1, 1, 2):
        assert board.choose(asked(loaded=[Loaded(generation)])) is None
    assert board.passed == {("trial", "unanswerable"): 3}
    assert caplog.text.count("no model 'sorting' here") == 2, "told once a generation"
    assert board.choose(asked(loaded=[Loaded(tasks=["sorting"])])) is not None


@in_loop
async def test_a_board_tells_which_experiments_name_a_bundle_and_when_that_changes():
    arms = [{**ARMS[0], "digest": "1" * 64}, ARMS[1]]
    clock = Clock()
    board, told = Board(clock=clock), list[list[str]]()
    board.listen = lambda: told.append(board.naming("1" * 64))
    few = {"share": 0.2}
    await board.start(experiment("now", arms=arms, stop=at(10), eligible=few), "begin")
    await board.start(experiment("soon", arms=arms, start=at(5), eligible=few), "begin")
    await board.start(experiment("other", eligible=few), "begin")
    await board.stop("soon", "no")
    clock.now += 10
    board.choose(asked())
    assert told == [["now"], ["now", "soon"], ["now", "soon"], ["now"], []]


@in_loop
async def test_a_response_of_an_earlier_version_counts_for_none():
    board = Board(declared=[experiment(arms=arms(a=0.5, b=0.5))])
    early = board.choose(asked())
    await board.change("trial", experiment(arms=arms(a=0.4, b=0.6)), "x")
    board.expose(early)
    board.expose(board.choose(asked()))
    assert sum(board.exposures["trial"].responses.values()) == 1


def test_experiments_begun_at_one_moment_are_in_the_order_of_their_declaration():
    many = [experiment(name, layer=name) for name in "cab"]
    board = Board(declared=many, clock=Clock())
    assert [one.name for one in board.all()] == ["c", "a", "b"]
