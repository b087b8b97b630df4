# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""A text names what it says is there: no half words, no other words, nothing that it denies."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.streets import PROPERTY

from vlm_perception.datasets.object_mentions import ObjectNameError, ObjectNames

LABELS = ("car", "bus", "person", "traffic light", "fire hydrant", "knife", "skis", "stop sign")
NAMES = ObjectNames(
    LABELS,
    {"car": ["automobile", "station wagon"], "person": ["pedestrian"], "hydra": []},
    ["car wash", "bus stop"],
)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("A car, two buses; some people: knives!", {"car", "bus", "person", "knife"}),
        ("an automobile and station wagons", {"car"}),
        ("Traffic-lights above a stop  sign", {"traffic light", "stop sign"}),
        ("a cart on the carpet", set()),
        ("the driver's car's door", {"car"}),
        ("a car wash at the bus stop", set()),
        # Denied in front of it, one or all of a list.
        ("there are no cars", set()),
        ("a road without a car, a bus or a traffic light", set()),
        ("no car, a bus and two people", {"bus", "person"}),
        ("no red cars or blue buses, but people", {"person"}),
        ("neither cars nor buses; a person", {"person"}),
        ("There isn't a car. A bus is", {"bus"}),
        ("that is not a car, it is a bus", {"bus"}),
        ("it does not show any car and shows a bus", {"bus"}),
        ("no sign of a car near the bus", {"bus"}),
        ("a car-free street free of buses with people", {"person"}),
        ("no traffic light is visible behind the bus", {"bus"}),
        ("there does not seem to be a car, but a bus instead of a person", {"bus"}),
        ("no trees, cars or buses", set()),
        # Denied behind it.
        ("cars cannot be seen, and a bus does not appear", set()),
        ("cars and a bus are not visible", set()),
        ("beside a car, the bus isn\u2019t there", {"car"}),
        ("car: none, bus: two", {"bus"}),
        # It denies one noun and what a list joins to it, not what is done without it.
        ("a person with no shirt riding a car", {"person", "car"}),
        ("a person without a helmet holds a knife", {"person", "knife"}),
        ("a bus with no passengers pulling past cars", {"bus", "car"}),
        ("no clouds and people flying a kite over the bus", {"person", "bus"}),
        ("no leaves cover the car", {"car"}),
        ("a person without his shirt and his car", {"person", "car"}),
        ("no cars, people walking", {"person"}),
        ("no oncoming or parked cars, trucks or buses", set()),
        ("a person not wearing skis carrying a knife", {"person", "knife"}),
        ("a no parking sign by the car", {"car"}),
        ("the car is missing a bus", {"car"}),
        ("a person missing the bus", {"person", "bus"}),
        ("the car is missing; the bus is missing from the road", set()),
        ("the person doesn't seem to notice the car", {"person", "car"}),
        ("I do not see the car, the person doesn't see any bus", {"person"}),
        ("there is no sign that the bus has stopped", {"bus"}),
        # Not denied at all.
        ("no trees, cars on both sides", {"car"}),
        ("none of the cars are in motion", {"car"}),
        ("the bus is not in service", {"bus"}),
        ("the car is not moving behind a bus", {"car", "bus"}),
        ("not only a car", {"car"}),
        ("no fewer than two cars", {"car"}),
        ("it is not raining and a car is parked", {"car"}),
        ("not a rainy day, with a car", {"car"}),
        ("no one on the car", {"car"}),
    ],
)
def test_what_a_text_says_is_there(text: str, named: set[str]) -> None:
    assert NAMES.named(text) == named


@pytest.mark.parametrize(
    ("prefix", "named"),
    [
        ("a car", set()),
        ("a person ", {"person"}),
        ("a car ", set()),
        ("a car,", {"car"}),
        ("a car w", set()),
        ("a car wi", {"car"}),
        ("a traffic", set()),
        ("a bus ", set()),
        ("a bus a", {"bus"}),
        ("a person and a car", {"person"}),
    ],
)
def test_the_end_of_an_unfinished_text_counts_once_it_is_known(
    prefix: str, named: set[str]
) -> None:
    assert NAMES.named(prefix, finished=False) == named


words = st.sampled_from([*LABELS, "cars", "no", "not", "a", ",", ".", "and", "is", "wash", "stop"])


@settings(PROPERTY, max_examples=40)
@given(st.lists(words, max_size=8).map(" ".join), st.text("carswt, ", max_size=6))
def test_no_later_word_takes_back_more_than_a_denial_does(text: str, rest: str) -> None:
    # Behind a full stop nothing of the text before it changes.
    whole = NAMES.named(f"{text}. {rest}")
    assert NAMES.named(f"{text}.", finished=False) <= whole
    assert NAMES.named(text, finished=False) <= NAMES.named(f"{text}.") == NAMES.named(text)


def test_names_of_labels() -> None:
    assert [NAMES.label(name) for name in ("Automobile", "ski", "people", "owl")] == [
        *("car", "skis", "person", "owl")
    ]
    with pytest.raises(ObjectNameError, match="'limo' stands for 'car' and for 'bus'"):
        ObjectNames(LABELS, {"car": ["limo"], "bus": ["limo"]})
    with pytest.raises(ObjectNameError, match="'bus' stands for 'bus' and for 'no label'"):
        ObjectNames(LABELS, others=["bus"])
    assert ObjectNames(LABELS, {"bus": ["car"]}).named("two cars") == {"bus"}


@pytest.mark.parametrize(
    "pair",
    [
        *(
            "horse horses",
            "house houses",
            "vase vases",
            "bus buses",
            "glass glasses",
            "quiz quizzes",
        ),
        *("tomato tomatoes", "photo photos", "policeman policemen", "human humans", "toe toes"),
        *("bookshelf bookshelves", "scarf scarves", "cherry cherries", "person people", "ski skis"),
        *(
            "watch watches",
            "mongoose mongooses",
            "person persons",
            "lens lenses",
            "giraffe giraffes",
        ),
    ],
)
def test_a_label_is_found_in_both_numbers_whichever_it_is_in(pair: str) -> None:
    for label in pair.split():
        names = ObjectNames([label, "slice of cake"])
        assert all(
            names.named(f"two slices of cake, {each}") == names.labels for each in pair.split()
        )
        assert not names.named("a bu, a ga, a len; to go to a hor, new hum, per")


def test_labels_that_have_a_form_in_common_are_one() -> None:
    names = ObjectNames(["car", "persons", "bus", "cars", "people"])
    assert names.joined == {"cars": "car", "people": "persons"}
    assert names.labels == {"car", "persons", "bus"}
    assert names.named("two cars and a person") == {names.label("cars"), names.label("people")}
    more = ObjectNames(
        ["traffic light"], others=["fog"], vocabulary=["red traffic light", "fog", "van"]
    )
    assert more.named("a red traffic light in fog with vans") == {"traffic light", "van"}
    apart = ObjectNames(["glass", "glasses"], {"glass": [], "glasses": ["spectacles"]})
    assert apart.named("two glasses") == {"glasses"}
    assert not apart.joined
