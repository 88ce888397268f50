"""Jobs as the verbs see them, by a dashboard that is only played."""

import json
import socket
import threading
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import AuthenticationError
from test_session import raising

import run_cluster
from zoo_ray.cluster import jobs
from zoo_ray.cluster.jobs import Jobs
from zoo_ray.cluster.packing import Submission
from zoo_ray.errors import UserError

LOG = "episode 1/3  members 1/3  work 33%\n"


def job(identity, run):
    details = {"type": "SUBMISSION", "entrypoint": "", "status": "RUNNING", "start_time": 1000}
    submission = Submission("train", run, {"store": "/shared/zoos"})
    return details | {"submission_id": identity, "metadata": submission.to_metadata()}


@pytest.fixture
def dashboard():
    """Plays a Ray dashboard with two jobs, one of whose logs is lost; notes who asks for logs."""
    found = [job("sound-1", "sound"), job("-lost-1", "-lost")]
    answers = {
        "/api/version": {"version": "4", "ray_version": version("ray"), "ray_commit": ""},
        "/api/jobs/": found,
        "/api/jobs/sound-1/logs": {"logs": LOG},
        "/api/jobs/sound-1": found[0],
        "/api/jobs/-lost-1": found[1] | {"status": "STOPPED"},
        "/api/jobs/-lost-1/stop": {"stopped": True},
        "/api/jobs/sound-1/stop": {"stopped": True},
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            answer = answers.get(self.path)
            body = b"No available agent" if answer is None else json.dumps(answer).encode()
            self.send_response(500 if answer is None else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_):
            pass

    asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.url, server.asked = f"http://127.0.0.1:{server.server_port}", asked
        server.jobs, server.answers = found, answers
        yield server
        server.shutdown()


def logs_asked(dashboard):
    return [path for path in dashboard.asked if path.endswith("/logs")]


def test_a_log_that_cannot_be_read_breaks_no_list(dashboard):
    cluster = Jobs(dashboard.url)
    done = {job.submission.name: job.line and job.line.done for job in cluster.all()}
    assert done == {"sound": "episode 1/3", "-lost": None}
    assert cluster.find("-lost", with_line=True).line is None
    with pytest.raises(UserError, match="No available agent"):
        cluster.log("-lost-1")


def test_a_job_is_found_and_stopped_without_its_log(dashboard, capsys):
    assert run_cluster.main(["stop", "--address", dashboard.url, "--", "-lost"]) == 0
    assert logs_asked(dashboard) == []
    # What it says can be typed.
    assert capsys.readouterr().out.rstrip().endswith(" resume -- -lost-1")
    assert run_cluster._parser().parse_args(["resume", "--", "-lost-1"]).run == "-lost-1"


def test_the_command_that_goes_on_means_the_job_that_was_stopped(dashboard, capsys):
    dashboard.jobs.append(job("sound-2", "sound"))
    dashboard.jobs[0]["status"] = "STOPPED"
    assert run_cluster.main(["stop", "sound-1", "--address", dashboard.url]) == 0
    assert capsys.readouterr().out.rstrip().endswith(" resume sound-1")


def test_who_no_more_follows_a_job_has_not_stopped_it(dashboard, monkeypatch):
    said = []
    monkeypatch.setattr(
        run_cluster, "clean_stops", lambda farewell: said.append(farewell) or nullcontext()
    )
    for verb in ("logs", "status"):
        assert run_cluster.main([verb, "sound", "--address", dashboard.url]) == 0
    assert said[0].startswith("the job goes on; to see it again: python ")
    assert said[1].startswith("stopped; to go on: python ")


def following(monkeypatch, *texts, then=lambda: None):
    """Has a job's log be these pieces, after which something happens."""

    async def tail(*_):
        for text in texts:
            yield text
        then()

    monkeypatch.setattr(jobs.JobSubmissionClient, "tail_job_logs", tail)


@pytest.mark.parametrize(("state", "code"), [("SUCCEEDED", 0), ("FAILED", 1), ("STOPPED", 1)])
def test_the_exit_code_tells_what_became_of_a_job(dashboard, monkeypatch, capsys, state, code):
    following(monkeypatch, "one\n", "two\n")
    dashboard.jobs[0]["status"] = state
    for words in ([], ["-f"]):
        assert run_cluster.main(["logs", "sound", "--address", dashboard.url, *words]) == code
    assert capsys.readouterr().out == LOG + "one\ntwo\n"


def test_a_log_that_ends_before_its_job_is_told(dashboard, monkeypatch, capsys):
    follow = ["logs", "-f", "sound", "--address", dashboard.url]
    assert run_cluster.main(follow) == 2  # it is not taken at all
    assert "sound-1: its log has ended (500, message=" in capsys.readouterr().err
    following(monkeypatch, "one\n")
    assert run_cluster.main(follow) == 2
    said = "error: sound-1: its log has ended, and the job is running; `logs -f sound-1` shows it"
    assert capsys.readouterr() == ("one\n", f"{said} again\n")


def test_a_cluster_that_is_stopped_under_a_log_is_told(dashboard, monkeypatch, capsys):
    def stop():
        dashboard.shutdown()
        dashboard.server_close()

    following(monkeypatch, "one\n", then=stop)
    assert run_cluster.main(["logs", "-f", "sound", "--address", dashboard.url]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("one\n", 1)
    assert f"the cluster at {dashboard.url} does not answer any more" in err


def test_who_cannot_show_a_log_does_not_blame_the_cluster(dashboard, monkeypatch):
    following(monkeypatch, "one\n")
    with pytest.raises(BrokenPipeError):
        Jobs(dashboard.url).follow("sound-1", show=raising(BrokenPipeError()))


FAILED = "Job entrypoint command failed with exit code 2, last available logs (truncated ...):\n"


def test_the_status_of_a_failed_job_ends_with_the_end_of_its_log(dashboard, capsys):
    log = "".join(f"line {number} [of] 300\n\n" for number in range(1, 301))
    dashboard.jobs[0].update(status="FAILED", message=FAILED + log, end_time=3000)
    assert run_cluster.main(["status", "sound", "--address", dashboard.url]) == 0
    shown = capsys.readouterr().out.splitlines()
    at = shown.index("state      failed: " + FAILED.rstrip())
    assert shown[at + 1 : at + 6] == [
        f"           line {number} [of] 300" for number in range(296, 301)
    ]
    assert shown[at + 6].startswith("started ")


def test_json_gives_accuracy_as_a_fraction_and_why_a_job_failed(dashboard, capsys, monkeypatch):
    log = "episode 2/3  accuracy 93.5%\n" + "a warning\n" * 100 + "error: why\n"
    dashboard.answers["/api/jobs/sound-1/logs"] = {"logs": log}
    dashboard.jobs[0].update(status="FAILED", message=FAILED + log)
    following(monkeypatch, log)
    found = []
    for words, code in [("jobs",), 0], [("status", "sound"), 0], [("logs", "sound"), 1]:
        assert run_cluster.main([*words, "--json", "--address", dashboard.url]) == code
        found.append(json.loads(capsys.readouterr().out))
    assert run_cluster.main(["logs", "-f", "sound", "--json", "--address", dashboard.url]) == 1
    out, err = capsys.readouterr()
    assert err == log
    listed, shown, *logged = [*found, json.loads(out)]
    assert [shown, shown] == logged
    assert shown == {job["id"]: job for job in listed["jobs"]}["sound-1"]
    assert (shown["id"], shown["run"], shown["state"]) == ("sound-1", "sound", "failed")
    assert (shown["done"], shown["accuracy"]) == ("episode 2/3", 0.935)
    message = shown["message"]
    assert (len(message), message.count("\n")) == (500, 0)
    assert message.startswith(FAILED[:60])
    assert message.endswith("a warning error: why")
    assert {job["id"]: job["message"] for job in listed["jobs"]}["-lost-1"] is None


def test_a_command_that_runs_as_a_job_says_to_resume_the_job(dashboard, monkeypatch):
    sent, said = {}, []
    monkeypatch.setattr(jobs.JobSubmissionClient, "submit_job", lambda _, **job: sent.update(job))
    config = {"store": "/shared/zoos", "benchmark": {"dataset": "digits"}}
    submission = Submission("train", "other", config)
    Jobs(dashboard.url).submit(submission, script=Path(run_cluster.__file__))
    for name, value in sent["runtime_env"]["env_vars"].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(
        run_cluster, "clean_stops", lambda farewell: said.append(farewell) or nullcontext()
    )
    monkeypatch.setattr("sys.argv", ["run_cluster.py"])
    run_cluster.main(["train", "config.yaml", "--name=other"])
    assert sent["submission_id"].startswith("other-")
    assert said == [f"stopped; to go on: python run_cluster.py resume {sent['submission_id']}"]


def test_names_are_quoted_in_commands_to_type(monkeypatch):
    monkeypatch.setattr("sys.argv", ["my zoos/run_cluster.py"])
    assert run_cluster._to_type("resume", "a b") == "python 'my zoos/run_cluster.py' resume 'a b'"


def test_a_tunnel_that_says_nothing_is_no_cluster(monkeypatch):
    monkeypatch.setattr(jobs, "_ANSWERS_WITHIN_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match=r"no Ray cluster answers .* </dev/null &` brings"):
            Jobs(url)
        monkeypatch.setattr(jobs, "_TUNNEL", url)
        monkeypatch.setattr(jobs, "check_answers", raising(ValueError("this machine has none")))
        for name in jobs.ADDRESSES:
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(UserError, match=rf"^--address {url}: no Ray cluster answers"):
            Jobs()


@pytest.mark.parametrize("told", [None, b"127.0.0.1:1"])
def test_a_cluster_of_this_machine_without_a_dashboard(monkeypatch, told):
    monkeypatch.setattr(jobs, "_DASHBOARD_WITHIN_S", 0)
    monkeypatch.setattr(jobs, "check_answers", lambda _: None)
    store = SimpleNamespace(internal_kv_get=lambda *_: told)
    monkeypatch.setattr(jobs, "GcsClient", lambda **_: store)
    said = "the Ray of this machine has no dashboard that answers .* `ray start --head` again$"
    with pytest.raises(UserError, match=said):
        Jobs("10.0.0.1:6379")


def test_the_dashboard_of_a_cluster_of_this_machine_is_found(dashboard, monkeypatch):
    monkeypatch.setattr(jobs, "check_answers", lambda _: None)
    told = dashboard.url.removeprefix("http://").encode()
    store = SimpleNamespace(internal_kv_get=lambda *_: told)
    monkeypatch.setattr(jobs, "GcsClient", lambda **_: store)
    cluster = Jobs("10.0.0.1:6379")
    assert (cluster.url, cluster.here) == (dashboard.url, True)


def test_a_cluster_of_this_machine_that_asks_for_its_token(monkeypatch):
    monkeypatch.setattr(jobs, "check_answers", raising(AuthenticationError("no")))
    with pytest.raises(UserError, match=r"^--address 10\.0\.0\.1:6379: this cluster asks for its"):
        Jobs("10.0.0.1:6379")
