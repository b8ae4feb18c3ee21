"""What ``/openapi.json`` says is true, whatever is sent."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serving.malformed import GETS, VALID
from zojax.serving.app import create_app
from zojax.serving.limits import Keys, Limits

schemathesis = pytest.importorskip("schemathesis")
from schemathesis.specs.openapi import checks  # noqa: E402

KEY = {"Authorization": "Bearer a-key"}
MODES = schemathesis.GenerationMode
KEPT = (
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
    checks.ignored_auth,
)
_JOB = "/v1/fine_tuning/jobs/{job_id}"
FINE_TUNING = [
    *(("/v1/files", "POST"), ("/v1/files", "GET"), ("/v1/fine_tuning/jobs", "GET")),
    *((f"/v1/files/{{file_id}}{of}", "GET") for of in ("", "/content")),
    *(("/v1/files/{file_id}", "DELETE"), ("/v1/models/{name}", "DELETE")),
    *((f"{_JOB}{of}", "GET") for of in ("", "/events", "/checkpoints")),
    *((f"{_JOB}/{verb}", "POST") for verb in ("cancel", "pause", "resume")),
]
ROUTES = [*((path, "POST") for path in VALID), *((path, "GET") for path in GETS), *FINE_TUNING]


@pytest.fixture(scope="session")
def document(chatting):
    app = create_app(dataclasses.replace(chatting, keys=Keys(["a-key"]), limits=Limits(choices=4)))
    return schemathesis.openapi.from_asgi("/openapi.json", app, headers=KEY)


@pytest.fixture(autouse=True)
def _adapters_stay(service):
    registry = service.runtime.registry
    before = {name: registry.get(name).load for name in registry.names()}
    yield
    for name in set(before) - set(registry.names()):
        registry.add(name, before[name])


def test_the_document_has_all_routes(document):
    found = {(one.ok().path, one.ok().method.upper()) for one in document.get_all_operations()}
    assert found == {(p.replace("models/one", "models/{name}"), method) for p, method in ROUTES}


@pytest.mark.parametrize(("path", "method"), ROUTES)
def test_answers_are_as_the_document_says(document, path, method):
    operation = document[path.replace("models/one", "models/{name}")][method]

    @given(st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in MODES)))
    def every(case):
        case.call_and_validate(headers=KEY, checks=list(KEPT))

    every()
