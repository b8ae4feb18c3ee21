"""Every task's prompts and candidates, character by character, on records in its hub's format."""

import pytest

from zojax.config import DataConfig
from zojax.errors import InputError
from zojax.tasks.dataset import TASKS, get_sizes, get_task
from zojax.tasks.task import make_example

RTE = {"premise": "It rained all night.", "hypothesis": "The street is wet.", "label": 0, "idx": 4}
CB = {"premise": "B: I doubt it. A: Oh.", "hypothesis": "it is so", "label": 2, "idx": 1}
BOOLQ = {"question": "is tin a metal", "passage": "Tin (Sn) is a soft metal.", "answer": True}
WSC = {
    "text": "Ann thanked Mary because She had helped.",
    "span1_index": 2,
    "span2_index": 4,
    "span1_text": "Mary",
    "span2_text": "She",
    "idx": 0,
    "label": 1,
}
WIC = {
    "word": "bank",
    "sentence1": "The bank is closed.",
    "sentence2": "They sat on the bank .",
    "start1": 4,
    "start2": 16,
    "end1": 8,
    "end2": 20,
    "idx": 9,
    "label": 0,
}
MULTIRC = {
    "paragraph": "Ann ran. Bob sat.",
    "question": "Who ran?",
    "answer": "Bob, I think",
    "idx": {"paragraph": 0, "question": 1, "answer": 2},
    "label": 0,
}
COPA = {
    "premise": "The man lost his balance. ",
    "choice1": "He fell off the ladder.",
    "choice2": "I saw Him.",
    "question": "effect",
    "idx": 3,
    "label": 1,
}
RECORD = {
    "passage": "Ann met Bob in Rome.\n@highlight\nThey ate.\n@highlight\nIt rained",
    "query": "Later @placeholder left, said @placeholder.",
    "entities": ["Rome", "Ann", "Bob"],
    "answers": ["Bob", "Ann"],
    "idx": {"passage": 0, "query": 0},
}
SQUAD = {
    "id": "5733",
    "title": "University_of_Notre_Dame",
    "context": "It stands in Indiana.",
    "question": " Where does it stand?  ",
    "answers": {"text": ["Indiana", "in Indiana"], "answer_start": [13, 10]},
}
DROP = {
    "section_id": "nfl_1",
    "query_id": "q",
    "passage": "They scored 3 and 7.",
    "question": "How many points? ",
    "answers_spans": {"spans": ["10", "ten"], "types": ["number", "number"]},
}

# name: record, prompt, candidates, label, content-free prompt, all written by hand.
WRITTEN = {
    "sst2": (
        {"sentence": "a gripping film ", "label": 1, "idx": 0},
        "a gripping film It was",
        (" terrible", " great"),
        1,
        "It was",
    ),
    "rte": (
        RTE,
        'It rained all night.\nDoes this mean that "The street is wet." is true? Yes or No?\n',
        ("Yes", "No"),
        0,
        "",
    ),
    "cb": (
        CB,
        'Suppose B: I doubt it. A: Oh. Can we infer that "it is so"? Yes, No, or Maybe?\n',
        ("Yes", "No", "Maybe"),
        2,
        "",
    ),
    "boolq": (BOOLQ, "Tin (Sn) is a soft metal. Is tin a metal?\n", ("Yes", "No"), 0, ""),
    "wsc": (
        WSC,
        "Ann thanked Mary because She had helped.\n"
        'In the previous sentence, does the pronoun "she" refer to Mary? Yes or No?\n',
        ("No", "Yes"),
        1,
        "",
    ),
    "wic": (
        WIC,
        'Does the word "bank" have the same meaning in these two sentences? Yes, No?\n'
        "The bank is closed.\nThey sat on the bank .\n",
        ("No", "Yes"),
        0,
        "",
    ),
    "multirc": (
        MULTIRC,
        "Ann ran. Bob sat.\nQuestion: Who ran?\n"
        'I found this answer "Bob, I think". Is that correct? Yes or No?\n',
        ("No", "Yes"),
        0,
        "",
    ),
    "copa": (
        COPA,
        "The man lost his balance so",
        (" he fell off the ladder.", " I saw Him."),
        1,
        "so",
    ),
    "record": (
        RECORD,
        "Ann met Bob in Rome.\n- They ate.\n- It rained\n-",
        (
            " Later Rome left, said Rome.",
            " Later Ann left, said Ann.",
            " Later Bob left, said Bob.",
        ),
        2,
        "-",
    ),
    "squad": (
        SQUAD,
        "Title: University_of_Notre_Dame\nContext: It stands in Indiana.\n"
        "Question: Where does it stand?\nAnswer:",
        (" Indiana\n",),
        0,
        "",
    ),
    "drop": (
        DROP,
        "Passage: They scored 3 and 7.\nQuestion: How many points?\nAnswer:",
        (" 10\n",),
        0,
        "",
    ),
}


def rendered(name: str, record: dict, **changes):
    return make_example(TASKS[name], {**record, **changes}, "train:7")


def test_every_task_is_written_down_here():
    assert set(WRITTEN) == set(TASKS)
    assert all(task.name == name for name, task in TASKS.items())


@pytest.mark.parametrize("name", WRITTEN)
def test_prompt_candidates_and_label_are_as_written(name):
    record, prompt, candidates, label, content_free = WRITTEN[name]
    example = rendered(name, record)
    assert example.prompt == prompt
    assert example.candidates == candidates
    assert example.label == label
    assert example.content_free == content_free
    assert example.name == "train:7"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sst2", [" terrible", " great"]),
        ("rte", ["Yes", "No"]),
        ("cb", ["Yes", "No", "Maybe"]),
        ("wsc", ["No", "Yes"]),
        ("wic", ["No", "Yes"]),
        ("multirc", ["No", "Yes"]),
    ],
)
def test_each_label_has_mezos_word(name, words):
    for label, word in enumerate(words):
        example = rendered(name, WRITTEN[name][0], label=label)
        assert example.candidates[example.label] == word
    with pytest.raises(InputError, match=rf"^train:7: label {len(words)} has no word; labels are"):
        rendered(name, WRITTEN[name][0], label=len(words))


# --- BoolQ


@pytest.mark.parametrize(
    ("question", "written"),
    [
        ("is tin a metal", "Is tin a metal?"),
        ("Is Tin a metal?", "Is Tin a metal?"),
        ("élan is French", "Élan is French?"),
        ("", "?"),
    ],
)
def test_boolq_begins_a_question_in_upper_case_and_ends_it_with_a_mark(question, written):
    assert rendered("boolq", BOOLQ, question=question).prompt == (
        f"Tin (Sn) is a soft metal. {written}\n"
    )


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"answer": True}, "Yes"),
        ({"answer": False}, "No"),
        ({"label": 1}, "Yes"),  # SuperGLUE's: 1 is true
        ({"label": 0}, "No"),
    ],
)
def test_boolq_takes_both_hubs_records(fields, word):
    record = {"question": BOOLQ["question"], "passage": BOOLQ["passage"], **fields}
    example = make_example(TASKS["boolq"], record, "x")
    assert example.candidates[example.label] == word


def test_boolq_without_a_truth_says_so():
    record = {"question": "is it", "passage": "It is."}
    with pytest.raises(InputError, match=r"^x: no field 'answer'; there are question, passage$"):
        make_example(TASKS["boolq"], record, "x")
    with pytest.raises(InputError, match=r"^train:7: answer 'maybe' has no word; labels are true"):
        rendered("boolq", BOOLQ, answer="maybe")


# --- COPA


@pytest.mark.parametrize(
    ("premise", "question", "whole"),
    [
        ("The sun rose.", "effect", "The sun rose so it was day."),
        ("The sun rose.", "cause", "The sun rose because it was day."),
        ("The sun rose", "cause", "The sun rose because it was day."),
        ("The sun rose..", "cause", "The sun rose. because it was day."),
        ("Did it?  ", "cause", "Did it? because it was day."),
    ],
)
def test_copa_joins_premise_and_choice_to_a_sentence(premise, question, whole):
    example = rendered("copa", COPA, premise=premise, question=question, choice1="It was day.")
    assert example.prompt + example.candidates[0] == whole


@pytest.mark.parametrize(
    ("choice", "written"),
    [
        ("I ran.", " I ran."),
        ("I'm here.", " i'm here."),  # MeZO compares the whole word
        ("Ann Ran.", " ann Ran."),
        ("NATO won. ", " nato won."),
    ],
)
def test_copa_writes_a_choices_first_word_in_lower_case_unless_it_is_i(choice, written):
    assert rendered("copa", COPA, choice1=choice).candidates[0] == written


def test_copa_asks_for_causes_and_effects_only():
    with pytest.raises(InputError, match=r"^train:7: question is 'why', neither 'cause' nor"):
        rendered("copa", COPA, question="why")


# --- ReCoRD, SQuAD, DROP


def test_record_learns_the_first_answer_and_takes_all_for_right():
    example = rendered("record", RECORD)
    assert example.candidate_texts == ("Rome", "Ann", "Bob")
    assert example.answers == ("Bob", "Ann")
    assert example.candidate_texts[example.label] == "Bob"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"query": "They left."}, "query 'They left.' has no @placeholder"),
        ({"answers": ["Cy"]}, "answer 'Cy' is not one of the entities"),
        ({"answers": []}, r"answers is \[\], which is not a list of texts"),
        ({"entities": "Ann"}, "entities is 'Ann', which is not a list of texts"),
    ],
)
def test_record_names_what_does_not_fit_together(changes, reason):
    with pytest.raises(InputError, match=rf"^train:7: {reason}$"):
        rendered("record", RECORD, **changes)


@pytest.mark.parametrize("name", ["squad", "drop"])
def test_free_answers_are_all_kept(name):
    answers = {"squad": ("Indiana", "in Indiana"), "drop": ("10", "ten")}[name]
    assert rendered(name, WRITTEN[name][0]).answers == answers


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("squad", "answers", {"text": [], "answer_start": []}),
        ("squad", "answers", ["Indiana"]),
        ("drop", "answers_spans", {"spans": [7]}),
        ("drop", "answers_spans", None),
    ],
)
def test_records_without_an_answer_are_refused(name, field, value):
    with pytest.raises(InputError, match=rf"^train:7: {field} is .*, which has no list of texts"):
        rendered(name, WRITTEN[name][0], **{field: value})


# --- How they are trained, measured and split


def test_tasks_are_trained_and_measured_as_in_mezos_scripts():
    likelihood, generation = {"copa", "record"}, {"squad", "drop"}
    for name, task in TASKS.items():
        kind = "likelihood" if name in likelihood else "classification"
        assert task.kind == ("generation" if name in generation else kind)
        assert task.metric == ("f1" if name in {"squad", "drop", "record"} else "accuracy")
        assert task.max_new_tokens == (50 if name in generation else 0)


@pytest.mark.parametrize("name", WRITTEN)
def test_tables_take_1000_500_1000_and_a_dev_set_of_100_for_cb_and_copa(name):
    config = DataConfig(name)
    sizes = get_sizes(config, get_task(config))
    assert (sizes.train, sizes.eval) == (1000, 1000)
    assert sizes.dev == (100 if name in {"cb", "copa"} else 500)


def test_hub_names_are_the_ones_that_mezo_loads():
    super_glue = {"rte", "cb", "wsc", "wic", "multirc", "copa", "record"}
    for name in super_glue:
        configuration = "wsc.fixed" if name == "wsc" else name
        assert TASKS[name].hub == ("aps/super_glue", configuration)
    assert TASKS["sst2"].hub == ("nyu-mll/glue", "sst2")
    others = {"boolq": "google/boolq", "squad": "rajpurkar/squad", "drop": "ucinlp/drop"}
    for name, repository in others.items():
        assert TASKS[name].hub == (repository, None)
