"""The comparison of methods gives each the same, and can be made."""

import importlib.util
import sys

import pytest

from zojax.errors import InputError
from zojax.training.method import check_method


@pytest.fixture(scope="module")
def script(root):
    path = root / "benchmarks" / "methods.py"
    spec = importlib.util.spec_from_file_location("benchmark_methods", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_method_has_the_same_forward_passes_and_data(script, tmp_path):
    configs = {e.name: e.config(tmp_path, 720, 1) for e in script.ENTRIES}
    assert len(configs) == len(script.ENTRIES)
    for entry in script.ENTRIES:
        config = configs[entry.name]
        check_method(config)
        queries, name = config.estimator.num_queries, config.estimator.name
        one_sided = {"fzoo": queries + 1, "population": queries}
        assert config.train.steps * one_sided.get(name, 2 * queries) == 720
        assert (config.train.seed, config.data.seed, config.train.batch_size) == (1, 1, 32)


def test_a_method_that_is_not_there_is_refused(script):
    with pytest.raises(InputError, match="LoZO, r 4"):
        script.main(["--only", "nothing like it"])


def test_the_table_has_means_and_deviations(script):
    row = script.Row(script.ENTRIES[0], 3e-3, [0.5, 0.6, 0.7], [1.0, 2.0, 3.0], 2_000, 3_000_000)
    cells = script.table([row], 1000).splitlines()[-1].split(" | ")
    assert cells == ["| LoZO, r 4", "2", "500", "3e-03", "60.0 ± 10.0", "2.0 ± 1.0", "2", "3.0 |"]
