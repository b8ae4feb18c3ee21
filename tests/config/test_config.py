"""Configurations: what they hold, what overrides do, and what is said of mistakes."""

import dataclasses
import json
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from zojax.config import (
    Config,
    DataConfig,
    LinearConfig,
    LozoConfig,
    MeshConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    apply_overrides,
    from_dict,
    to_dict,
)
from zojax.config.loading import load_config
from zojax.config.schema import KINDS
from zojax.errors import InputError

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = [CONFIGS / f"{stem}.py" for stem in ("demo", "opt125m_lozo", "opt13b_lozo")]
IMPORT = "from zojax.config import *\n"


@pytest.fixture
def config() -> Config:
    return Config(ModelConfig("some/model"), RunConfig("runs/a"))


def get(config: Config, name: str):
    part, field = name.split(".")
    return getattr(getattr(config, part), field)


def classes() -> list[tuple[str, type]]:
    """Every part's class, and the classes of all its kinds."""
    return [
        (part.name, of)
        for part in dataclasses.fields(Config)
        for of in (KINDS[part.name].classes.values() if part.name in KINDS else [part.type])
    ]


def refused_set(config: Config, override: str) -> str:
    with pytest.raises(InputError) as raised:
        apply_overrides(config, [override])
    message = str(raised.value)
    assert message.startswith(f"--set {override}: "), "the line says which override it was"
    assert "\n" not in message
    return message.removeprefix(f"--set {override}: ")


# --- Shipped configurations and the names that scripts rely on


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configurations_load_and_survive_json(path):
    config = load_config(str(path))
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configurations_say_how_they_are_run_and_how_long_they_take(path):
    text = path.read_text()
    assert f"zojax train --config configs/{path.name}" in text
    assert re.search(r"minutes?|hours?", text.split('"""')[1])


def test_the_published_run_is_as_published():
    config = load_config(str(CONFIGS / "opt13b_lozo.py"))
    assert config.model == ModelConfig("facebook/opt-13b", "bfloat16", bos_token_id=0)
    ours = config.estimator
    assert (ours.name, ours.epsilon, ours.rank, ours.interval) == ("lozo", 1e-3, 2, 50)
    assert (ours.scale, config.space) == ("none", LinearConfig(fold="stochastic"))
    train = config.train
    assert (train.steps, train.batch_size, train.learning_rate) == (20_000, 16, 1e-7)
    assert (train.schedule, train.weight_decay, train.eval_every) == ("constant", 0.0, 4_000)
    data = config.data
    assert (data.num_train, data.num_dev, data.seed, data.max_length) == (1000, 500, 0, 2048)
    assert data.num_eval >= 872
    assert (data.task, data.truncate) == ("sst2", "left")


NAMES = {
    "model.path": ("x/y", "x/y"),
    "model.dtype": ("bfloat16", "bfloat16"),
    "data.task": ("other", "other"),
    "data.path": ("some/dir", "some/dir"),
    "run.dir": ("runs/b", "runs/b"),
    "train.steps": ("7", 7),
    "train.batch_size": ("4", 4),
    "train.learning_rate": ("1e-6", 1e-6),
    "estimator.name": ("lozo", "lozo"),
    "estimator.epsilon": ("0.01", 0.01),
    "estimator.rank": ("3", 3),
    "estimator.interval": ("9", 9),
    "space.name": ("full", "full"),
    "space.fold": ("nearest", "nearest"),
    "mesh.data": ("4", 4),
    "mesh.model": ("none", None),
    "mesh.fsdp": ("true", True),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_relied_upon_can_be_set(config, name):
    text, value = NAMES[name]
    changed = apply_overrides(config, [f"{name}={text}"])
    assert get(changed, name) == value
    assert type(get(changed, name)) is type(value)


def test_every_field_is_described_in_its_parts_docstring():
    for part, of in classes():
        for field in dataclasses.fields(of):
            assert f"        {field.name}: " in (of.__doc__ or ""), (part, of, field.name)


def test_a_configuration_is_read_without_jax():
    """Whose import takes longer than all that ``zojax configs`` does."""
    loaded = "import sys, zojax.config.loading; print([*{'jax', 'optax'} & set(sys.modules)])"
    told = subprocess.run([sys.executable, "-c", loaded], capture_output=True, check=True)
    assert told.stdout.strip() == b"[]"


# --- Overrides


def test_overrides_change_what_they_name_and_nothing_else(config):
    before = to_dict(config)
    changed = apply_overrides(config, ["train.steps=7", "data.seed=3", "train.steps=8"])
    expected = to_dict(config)
    expected["train"]["steps"], expected["data"]["seed"] = 8, 3
    assert to_dict(changed) == expected
    assert to_dict(config) == before, "the given configuration is left alone"


@pytest.mark.parametrize(
    ("override", "name", "value"),
    [
        (" train.steps = 12 ", "train.steps", 12),
        ("train.steps=1_000", "train.steps", 1000),
        ("train.weight_decay=0", "train.weight_decay", 0.0),
        ("train.learning_rate=5E-7", "train.learning_rate", 5e-7),
        ("data.shuffle_labels=true", "data.shuffle_labels", True),
        ("data.shuffle_labels=False", "data.shuffle_labels", False),
        ("data.shuffle_labels=1", "data.shuffle_labels", True),
        ("model.bos_token_id=0", "model.bos_token_id", 0),
        ("model.bos_token_id=None", "model.bos_token_id", None),
        ("model.activations=float32", "model.activations", "float32"),
        ("model.activations=None", "model.activations", None),
        ("data.path=none", "data.path", None),
        ("data.path=a=b", "data.path", "a=b"),
        ("data.num_train=none", "data.num_train", None),
        ('data.candidates={"0": " bad", "x": "="}', "data.candidates", {"0": " bad", "x": "="}),
        ("data.candidates=none", "data.candidates", None),
        ("train.optimizer=lion", "train.optimizer", "lion"),
        ('train.optimizer_args={"b1": 0.5, "n": 1}', "train.optimizer_args", {"b1": 0.5, "n": 1}),
        ("run.dir=with blank", "run.dir", "with blank"),
        # Fields that may not be None have a "none" of their own.
        ("space.fold=none", "space.fold", "none"),
        ("estimator.scale=none", "estimator.scale", "none"),
        ("run.dir=none", "run.dir", "none"),
    ],
)
def test_texts_become_the_fields_types(override, name, value):
    config = Config(
        ModelConfig("m", bos_token_id=5),
        RunConfig("r"),
        data=DataConfig(path="d"),
        estimator=LozoConfig(scale="rms"),
        space=LinearConfig(fold="nearest"),
    )
    changed = get(apply_overrides(config, [override]), name)
    assert changed == value
    assert type(changed) is type(value)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("train.steps=1.5", "train.steps should be an integer"),
        ("train.steps=ten", "train.steps should be an integer"),
        ("train.steps=true", "train.steps should be an integer"),
        ("train.steps=none", "train.steps should be an integer"),
        ("train.steps=", "train.steps should be an integer"),
        ("train.steps=-1", "train.steps should be greater than or equal to 0"),
        ("train.learning_rate=fast", "train.learning_rate should be a number"),
        ("train.learning_rate=true", "train.learning_rate should be a number"),
        ("train.learning_rate=0", "train.learning_rate should be greater than 0"),
        ("train.learning_rate=nan", "train.learning_rate should be a finite number"),
        ("estimator.epsilon=inf", "estimator.epsilon should be a finite number"),
        ("train.weight_decay=-1", "train.weight_decay should be greater than or equal to 0"),
        ("train.weight_decay=nan", "train.weight_decay should be a finite number"),
        ("data.num_train=0", "data.num_train should be greater than or equal to 1"),
        (
            "data.candidates={0: bad}",
            'data.candidates should be JSON, such as {"0": " bad", "1": " good"}; the text: is not '
            "JSON (Expecting property name enclosed in double quotes at column 2)",
        ),
        (
            "train.optimizer=lionn",
            "train.optimizer should be sgd, momentum, adam or another optimizer of optax; did you "
            "mean lion?",
        ),
        (
            "train.optimizer=nothing like it",
            "train.optimizer should be sgd, momentum, adam or another optimizer of optax, such as "
            "adamw, lion, adafactor",
        ),
        (
            "train.optimizer_args=b1",
            'train.optimizer_args should be JSON, such as {"b1": 0.95}; the text: is not JSON '
            "(Expecting value at column 1)",
        ),
        (
            "data.calibration=mean",
            "data.calibration should be 'none', 'content_free', 'median' or 'fitted'",
        ),
        ("data.shuffle_labels=maybe", "data.shuffle_labels should be true or false"),
        ("data.seed=2147483648", "data.seed should be less than 2147483648"),
        ("train.seed=-1", "train.seed should be greater than or equal to 0"),
        ("model.path=", "model.path should not be empty"),
        ("run.dir= ", "run.dir should not be empty"),
        ("mesh.model=0", "mesh.model should be greater than or equal to 1"),
        (
            "model.dtype=fp16",
            "model.dtype should be 'float32', 'bfloat16', 'float16', 'int8' or 'int4'",
        ),
        ("model.group_size=1", "model.group_size should be greater than or equal to 2"),
        ("model.bos_token_id=x", "model.bos_token_id should be an integer"),
        ("train.steps", "write it as FIELD=VALUE"),
        ("", "write it as FIELD=VALUE"),
    ],
)
def test_values_that_a_field_cannot_take_are_refused_in_plain_words(config, override, reason):
    assert refused_set(config, override) == reason


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("train.step", "train.steps"),
        ("train.learing_rate", "train.learning_rate"),
        ("train.lr", "train.learning_rate"),
        ("train.bs", "train.batch_size"),
        ("trian.steps", "train.steps"),
        ("steps", "train.steps"),
        ("data.rank", "estimator.rank or space.rank"),
        ("model.dir", "run.dir"),
        ("seed", "data.seed or train.seed"),
        ("Train.Steps", "train.steps"),
        ("estimator.interval.x", "estimator.interval"),
    ],
)
def test_unknown_fields_are_answered_with_the_one_that_was_meant(config, name, nearest):
    assert refused_set(config, f"{name}=1") == f"no field {name!r}; did you mean {nearest}?"


@pytest.mark.parametrize("name", ["foo", "", "train", "."])
def test_unknown_fields_like_no_other_are_answered_with_all(config, name):
    reason = refused_set(config, f"{name}=1")
    names = [f"{part}.{f.name}" for part, of in classes() for f in dataclasses.fields(of)]
    names = dict.fromkeys(names)  # kinds share some
    assert reason == f"no field {name!r}; there are {', '.join(names)}"


def test_unknown_fields_of_a_known_part_are_answered_with_its_fields(config):
    reason = refused_set(config, "mesh.zzz=1")
    assert reason.endswith("; there are mesh.data, mesh.model, mesh.fsdp")


# --- Types in Python


@pytest.mark.parametrize(
    ("part", "arguments", "message"),
    [
        (TrainConfig, {"steps": True}, "train.steps=True: should be an integer"),
        (TrainConfig, {"steps": 10.0}, "train.steps=10.0: should be an integer"),
        (TrainConfig, {"steps": "10"}, "train.steps='10': should be an integer"),
        (TrainConfig, {"learning_rate": "1e-6"}, "train.learning_rate='1e-6': should be a number"),
        (TrainConfig, {"learning_rate": True}, "train.learning_rate=True: should be a number"),
        (DataConfig, {"shuffle_labels": 1}, "data.shuffle_labels=1: should be true or false"),
        (DataConfig, {"path": Path("x")}, "data.path=PosixPath('x'): should be text"),
        (ModelConfig, {"path": "x", "dtype": "half"}, "model.dtype='half': should be 'float32', "),
        (ModelConfig, {}, "model.path is missing"),
        (LozoConfig, {"ranks": 2}, "no field 'estimator.ranks'; did you mean estimator.rank?"),
        (MeshConfig, {"data": 0}, "mesh.data=0: should be greater than or equal to 1"),
        (MeshConfig, {"data": True}, "mesh.data=True: should be an integer"),
    ],
)
def test_wrong_types_in_a_file_name_the_field_by_its_full_name(tmp_path, part, arguments, message):
    path = tmp_path / "mine.py"
    written = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    path.write_text(
        f"from pathlib import PosixPath\n{IMPORT}"
        f"def get_config():\n    return {part.__name__}({written})\n"
    )
    assert refused(path).startswith(f"{path}:4: {message}")


def test_an_integer_is_good_enough_for_a_float():
    assert TrainConfig(learning_rate=1).learning_rate == 1.0
    assert type(TrainConfig(learning_rate=1).learning_rate) is float


def test_assignments_are_checked_too(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        f"{IMPORT}def get_config():\n    config = Config(ModelConfig('m'), RunConfig('r'))\n"
        "    config.train.steps = 'many'\n    return config\n"
    )
    assert refused(path) == f"{path}:4: train.steps='many': should be an integer"


def test_saved_configurations_name_the_field_that_is_wrong(config):
    for part, field, value, message in [
        ("train", "steps", "7", "train.steps='7': should be an integer"),
        ("train", "stepz", 7, "no field 'train.stepz'; did you mean train.steps?"),
        ("estimator", "rank", None, "estimator.rank=None: should be an integer"),
    ]:
        tree = to_dict(config)
        tree[part][field] = value
        with pytest.raises(InputError) as raised:
            from_dict(tree)
        assert str(raised.value) == message


@pytest.mark.parametrize(("part", "what"), [("runn", "no field 'runn'; did you mean run?")])
def test_saved_configurations_name_the_part_that_is_wrong(config, part, what):
    with pytest.raises(InputError, match=f"^{re.escape(what)}$"):
        from_dict(to_dict(config) | {part: {}})


def test_a_saved_configuration_without_a_needed_part_says_which(config):
    tree = to_dict(config)
    del tree["run"]
    with pytest.raises(InputError, match=r"^run is missing$"):
        from_dict(tree)


# --- Files


def refused(path) -> str:
    with pytest.raises(InputError) as raised:
        load_config(str(path))
    return str(raised.value)


@pytest.mark.parametrize(
    ("text", "place_and_reason"),
    [
        ("def get_config(:\n", ":1: SyntaxError: invalid syntax"),
        ("x = 1\ndef get_config():\npass\n", ":3: IndentationError: expected an indented block"),
        ("x = 1\n", ": has no get_config()"),
        ("get_config = 5\n", ": has no get_config()"),
        ("import no_such_module\n", ":1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("def get_config():\n    return {}['a']\n", ":2: KeyError: 'a'"),
        ("def f():\n    1 / 0\ndef get_config():\n    f()\n", ":2: ZeroDivisionError: division"),
        ("import sys\ndef get_config():\n    sys.exit(3)\n", ":3: SystemExit: 3"),
        ("def get_config():\n    return {}\n", ": get_config() returned dict, not a Config"),
        ("def get_config():\n    pass\n", ": get_config() returned NoneType, not a Config"),
        ("def get_config(a):\n    pass\n", ": TypeError: get_config() missing 1 required posi"),
        (
            f"{IMPORT}def get_config():\n    return Config(ModelConfig('m'))\n",
            ":3: run is missing",
        ),
        (
            f"{IMPORT}def get_config():\n"
            "    return Config(ModelConfig('m'), RunConfig('r'), trian=TrainConfig())\n",
            ":3: no field 'trian'; did you mean train?",
        ),
        (
            f"{IMPORT}def get_config():\n"
            "    return Config(ModelConfig('m'), RunConfig('r'), train=DataConfig())\n",
            ":3: train=DataConfig(ta...",
        ),
        (
            f"{IMPORT}def get_config():\n    return RunConfig('a', 0, 1, 1, 1, False, 'b')\n",
            ":3: run.6='b': unexpec",
        ),
    ],
)
def test_broken_files_are_named_with_their_line(tmp_path, text, place_and_reason):
    path = tmp_path / "mine.py"
    path.write_text(text)
    assert refused(path).startswith(f"{path}{place_and_reason}")


def test_a_mistake_in_a_module_that_the_file_calls_names_the_files_own_line(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("import json\n\ndef get_config():\n    return json.loads('{')\n")
    assert refused(path).startswith(f"{path}:4: JSONDecodeError: ")


def test_missing_file_and_directory_are_told_apart(tmp_path):
    assert "no such file" in refused(tmp_path / "none.py")
    assert "is a directory" in refused(tmp_path)


def test_bytes_that_are_no_python_are_refused(tmp_path):
    path = tmp_path / "mine.py"
    path.write_bytes(b"\xff\xfe\x00")
    assert refused(path).startswith(f"{path}")


def test_overrides_are_applied_to_the_files_configuration(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        f"{IMPORT}def get_config():\n    return Config(ModelConfig('m'), RunConfig('r'))\n"
    )
    assert load_config(str(path), ["run.dir=other"]).run.dir == "other"


def test_every_choice_is_refused_with_the_whole_list(config):
    for part, of in classes():
        for field in dataclasses.fields(of):
            if typing.get_origin(field.type) is typing.Literal and part not in KINDS:
                reason = refused_set(config, f"{part}.{field.name}=nonsense")
                for choice in typing.get_args(field.type):
                    assert repr(choice) in reason
