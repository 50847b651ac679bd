"""What holds of topics, and of what a backend tells before it is reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventml.backends.base import CreatesTopics, NewTopic
from eventml.errors import TopicNotFoundError
from eventml.testing.contract import expect
from eventml.testing.contract.case import CREATES_TOPICS, TOLD, TOPICS_BEFOREHAND, case

if TYPE_CHECKING:
    from eventml.testing.contract.trial import Trial


@case(TOLD)
async def what_is_told_beforehand_holds(trial: Trial) -> None:
    """The module's `capabilities(settings)` and the connected backend's `capabilities` say the same."""
    expect.equal("the capabilities once connected", trial.capabilities, trial.harness.told)


@case(TOPICS_BEFOREHAND)
async def a_missing_topic_is_refused(trial: Trial) -> None:
    """Where topics are created beforehand, subscribing to a missing one raises TopicNotFoundError."""
    topic = trial.name("missing")
    try:
        await trial.join(topic, group=trial.name("group"))
    except TopicNotFoundError as exc:
        expect.true(topic in str(exc), f"the message does not name the topic: {exc}")
    else:
        raise AssertionError("subscribing to a topic that does not exist was not refused")


@case(CREATES_TOPICS)
async def topics_are_created_once(trial: Trial) -> None:
    """`create_topics` creates those that are not there, names them, and leaves the others as they are."""
    old = await trial.published(3)
    names = [trial.name("topic") for _ in range(2)]
    both, backend = [old[0].topic, *names], trial.backend
    if not isinstance(backend, CreatesTopics):
        raise TypeError("this case has to need CREATES_TOPICS")
    expect.equal("missing before", set(await backend.missing_topics(both)), {*names})
    wanted = [NewTopic(name=name, partitions=4) for name in both]
    expect.equal("created", set(await backend.create_topics(wanted)), {*names})
    expect.equal("missing after", list(await backend.missing_topics(both)), [])
    expect.equal("created once more", list(await backend.create_topics(wanted)), [])
    expect.each_once(await trial.read(old[0].topic, 3), old)
    new = await trial.published(3, topic=names[0])
    expect.each_once(await trial.read(names[0], 3), new)
