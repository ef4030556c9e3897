"""The families of the catalogue in words: what each is about, when to look there and when not."""

from __future__ import annotations

from typing import NamedTuple

from taskheads.methods import FAMILIES


class Family(NamedTuple):
    """title, about: what its methods do. use, avoid: when a method of it helps, and when it does not."""

    title: str
    about: str
    use: str
    avoid: str


FAMILY = {
    "heads": Family(
        "Task heads",
        "What reads a backbone and answers a task.",
        "A task of this kind has it by itself: `fit` takes the head that fits the kind.",
        "The task is of another kind.",
    ),
    "edits": Family(
        "Edits",
        "A few parameters, of one task or of several, that change what a frozen backbone computes for them.",
        "Many tasks share a backbone that stays as it is, and each needs more than a head on top of it.",
        "The frozen backbone's features are good enough (compare with `frozen`), or one backbone may be "
        "tuned for all tasks and its size does not matter (`full`).",
    ),
    "sharing": Family(
        "Sharing",
        "How tasks learn one backbone together: whose rows, losses and gradients count for how much.",
        "The backbone is tuned for several tasks (`full` or `auto`), and some suffer from the others.",
        "There is one task, or only heads and edits learn.",
    ),
    "merging": Family(
        "Merging",
        "Fine-tuned checkpoints of one architecture become one model, mostly without training.",
        "Models that were fine-tuned from the same base are there already, and their data may not be.",
        "The data of all tasks is at hand: training on all of it together is the stronger rival.",
    ),
    "inspect": Family(
        "Inspecting attention heads",
        "What attention heads do, told from what they compute.",
        "A question about a model's inner workings comes before a change to it.",
        "Only the answers matter.",
    ),
    "steer": Family(
        "Steering",
        "Changes to what attention heads give, at inference, without training weights.",
        "A behaviour should be stronger or weaker, and can be switched on and off.",
        "There are labels enough to train an edit.",
    ),
    "designs": Family(
        "Designs of attention",
        "Other kinds of attention than the usual one.",
        "A model is trained or converted with another attention.",
        "A pretrained backbone is to be used as it is.",
    ),
    "cache": Family(
        "Keys and values",
        "What is kept of the past, attention head by attention head, while text is generated.",
        "Long contexts are generated from, and memory is what limits that.",
        "Nothing is generated.",
    ),
    "compress": Family(
        "Compressing",
        "Smaller or faster models that answer the same.",
        "A model is good enough and too large or too slow.",
        "Quality is what is missing.",
    ),
    "continual": Family(
        "Learning on",
        "New tasks or data without forgetting the old.",
        "Tasks arrive one after the other, and shared weights have to change for each.",
        "Each task can have parameters of its own (edits): nothing is forgotten then.",
    ),
    "prompting": Family(
        "Prompting",
        "What a model is told, rather than how it is trained.",
        "A generating model is asked, with few labels or none.",
        "There are labels enough to train on.",
    ),
    "data": Family(
        "Data",
        "Which rows, and what is made of them.",
        "Labels are few, noisy or unevenly spread.",
        "Rows are plenty and clean.",
    ),
    "trust": Family(
        "Trust",
        "How far answers can be relied on.",
        "Confidence decides what happens to an answer.",
        "Only the first answer counts.",
    ),
    "modalities": Family(
        "Modalities",
        "Images, sound and other inputs beside text.",
        "Rows are not text alone.",
        "They are.",
    ),
    "routing": Family(
        "Routing",
        "Which model, expert or edit answers a row.",
        "Several could answer, and it is not said which one should.",
        "The task of each row is known.",
    ),
}
assert tuple(FAMILY) == FAMILIES
