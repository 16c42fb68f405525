import os
import signal

import apache_beam as beam
import pytest

from beam_pipelines.config import BeamConfig
from beam_pipelines.execution import pipeline_options, run_pipeline, user_error
from humpback_jax.errors import UsageError, UserError


def _failing(error_class, message):
    # A nested function travels to another process by value; this module cannot be imported there.
    def fail(value):
        raise error_class(message.format(value))

    return lambda pipeline: pipeline | beam.Create([0]) | beam.Map(fail)


@pytest.mark.parametrize("mode", ["in_memory", "multi_processing"])
def test_user_error_of_a_worker_comes_back_with_its_own_message(mode):
    config = BeamConfig(direct_running_mode=mode)
    with pytest.raises(UserError) as caught:
        run_pipeline(_failing(UserError, "record {} is 'wrong': mend it"), config)
    assert str(caught.value) == "record 0 is 'wrong': mend it"


def test_another_error_is_not_hidden():
    with pytest.raises(Exception, match="not by zero") as caught:
        run_pipeline(_failing(ZeroDivisionError, "not by zero"), BeamConfig())
    assert not isinstance(caught.value, UserError)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "400 ...\n  \"message\": Quota 'CPUS' exceeded. Limit: 8",
            ["'CPUS'", "quotas"],
        ),
        ("Your default credentials were not found.", ["application-default login"]),
        ("HttpForbiddenError: <403> caller does not have dataflow.jobs.create", ["the account"]),
    ],
)
def test_a_job_that_dataflow_refuses_is_one_sentence(monkeypatch, said, words):
    def refuse(_pipeline, **_):
        raise RuntimeError(said)

    monkeypatch.setattr(beam.Pipeline, "run", refuse)
    monkeypatch.setattr(beam.Pipeline, "__init__", lambda *_, **__: None)
    with pytest.raises(UserError, match="^Dataflow refuses the job") as caught:
        run_pipeline(lambda _: None, BeamConfig(runner="DataflowRunner"))
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError):
        run_pipeline(lambda _: None, BeamConfig(runner="FlinkRunner"))


def test_user_error_is_found_in_the_text_of_a_remote_traceback():
    text = (
        "Error processing instruction 7. Original traceback is\nTraceback (most recent ...):\n"
        '  File "x.py", line 1\n'
        "humpback_jax.errors.UsageError: give a list [while running 'Map(f)-ptransform-3']\n"
    )
    found = user_error(RuntimeError(text))
    assert type(found) is UsageError
    assert str(found) == "give a list"
    assert user_error(RuntimeError("ValueError: no")) is None


def test_options_are_passed_through():
    config = BeamConfig(
        runner="FlinkRunner", options=["--flink_master=host:8081", "--parallelism=2"]
    )
    options = pipeline_options(config).get_all_options()
    assert options["runner"] == "FlinkRunner"
    assert options["flink_master"] == "host:8081"
    assert options["parallelism"] == 2
    local = pipeline_options(BeamConfig(direct_running_mode="multi_processing", num_workers=3))
    assert local.get_all_options()["direct_num_workers"] == 3
    assert local.get_all_options()["direct_running_mode"] == "multi_processing"


@pytest.mark.parametrize(
    "wrong",
    [
        {"runner": "DirectRunner"},
        {"direct_running_mode": "threads"},
        {"num_workers": 0},
        {"options": ["project=x"]},
    ],
)
def test_wrong_configuration_is_refused(wrong):
    with pytest.raises(UsageError, match="BeamConfig"):
        BeamConfig(**wrong)


def _killing():
    # Nested, as above.
    def kill(value):
        os.kill(os.getpid(), signal.SIGKILL)

    return lambda pipeline: pipeline | beam.Create([0]) | beam.Map(kill)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # Beam's own
def test_a_worker_process_that_is_killed_ends_the_pipeline():
    config = BeamConfig(direct_running_mode="multi_processing", num_workers=2)
    with pytest.raises(UserError, match="a worker process was killed.*run the same command again"):
        run_pipeline(_killing(), config)


@pytest.mark.parametrize(
    ("said", "ours"),
    [
        ("JobMasterException: TaskManager with id a:1 is no longer reachable.", True),
        (
            "RuntimeException: Error\nTraceback (most recent call last):\n KeyError: 1",
            False,
        ),
    ],
)
def test_a_job_that_a_cluster_ended_is_one_sentence_and_a_bug_is_not(monkeypatch, said, ours):
    def run(pipeline):
        raise RuntimeError(f"Pipeline BeamApp-1_2 failed in state FAILED: {said}")

    monkeypatch.setattr(beam.Pipeline, "run", run)
    with pytest.raises(UserError if ours else RuntimeError) as caught:
        run_pipeline(lambda pipeline: None, BeamConfig(runner="FlinkRunner"))
    if ours:
        assert str(caught.value).startswith(f"the job failed on FlinkRunner ({said.rstrip('.')}): ")
