"""The service's answers: what it takes and refuses, and that nothing beside its jobs is read or told."""

import io
import json

import pytest
from starlette.testclient import TestClient

from sama_video.service.store import JobStore
from sama_video.service.web import Limits, create_app
from tests.clips import write_clip

LIMITS = Limits(upload=300_000, seconds=1.0, pixels=96 * 128, queue=3)


@pytest.fixture
def store(tmp_path):
    return JobStore(tmp_path / "jobs")


@pytest.fixture
def http(store):
    return client(store)


def client(store, token=None, host="http://localhost:8000"):
    return TestClient(
        create_app(store, ["nano", "large"], list, LIMITS, token), base_url=host, raise_server_exceptions=False
    )


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "clip.mp4", 12).read_bytes()


def post(http, clip, name="clip.mp4", prompt="make it red", **form):
    settings = form.pop("settings", {})
    form = {"prompt": prompt, "settings": settings if isinstance(settings, str) else json.dumps(settings)} | form
    return http.post("/api/jobs", data=form, files={"video": (name, io.BytesIO(clip), "video/mp4")})


def test_a_job_is_kept_as_it_was_asked_for(http, store, clip):
    answer = post(http, clip, settings={"seed": 3, "strength": 0.5}, seeds=2, priority=4, suffix=".webm")
    assert answer.status_code == 201
    job = answer.json()
    assert (job["state"], job["number"], job["priority"]) == ("queued", 1, 4)
    assert job["request"]["settings"]["strength"] == 0.5
    assert (store.folder_of(job["id"]) / "source.mp4").read_bytes() == clip
    assert http.get(f"/api/jobs/{job['id']}").json() == job
    assert [one["id"] for one in http.get("/api/jobs").json()] == [job["id"]]
    assert http.get("/api/service").json()["waiting"] == 1
    assert http.put(f"/api/jobs/{job['id']}/priority?value=9").json()["priority"] == 9
    assert http.delete(f"/api/jobs/{job['id']}").status_code == 409
    assert http.post(f"/api/jobs/{job['id']}/cancel").json()["state"] == "cancelled"
    again = http.post(f"/api/jobs/{job['id']}/retry")
    assert again.status_code == 201
    assert again.json()["request"] == job["request"]
    assert http.delete(f"/api/jobs/{job['id']}").status_code == 204
    assert http.get(f"/api/jobs/{job['id']}").status_code == 404


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"settings": "{"}, 422, "not JSON"),
        ({"settings": "[]"}, 422, "must be a JSON object"),
        ({"settings": {"sed": 1}}, 422, "no setting 'sed'"),
        ({"settings": {"mask": "/etc/passwd"}}, 422, "no setting 'mask'"),
        ({"settings": {"max_source_pixels": 10**9}}, 422, "no setting 'max_source_pixels'"),
        ({"settings": {"seed": -1}}, 422, "seed must be at least 0"),
        ({"settings": {"seed": "x"}}, 422, "a setting is of the wrong kind"),
        ({"prompt": ""}, 422, "prompt"),
        ({"seeds": 99}, 422, "seeds"),
        ({"suffix": ".exe"}, 422, "not written as .exe"),
        ({"model": "/etc"}, 422, "no model '/etc' here; ask for one of nano, large"),
    ],
)
def test_what_makes_no_edit_is_refused(change, status, words, http, store, clip):
    answer = post(http, clip, **change)
    assert answer.status_code == status
    assert words in str(answer.json()["detail"])
    assert store.list() == []
    assert list((store.folder / "jobs").iterdir()) == []


def test_files_that_are_none_too_long_too_large(http, store, clip, tmp_path):
    long = write_clip(tmp_path / "long.mp4", 48).read_bytes()
    wide = write_clip(tmp_path / "wide.mp4", 3, height=112, width=160).read_bytes()
    for content, status, words in [
        (b"", 422, "is empty"),
        (b"no video at all", 422, "is not a video"),
        (clip[:1000], 422, "source.mp4"),
        (long, 422, "2 s are to be edited, and this service takes at most 1 s"),
        (wide, 422, "more than the limit of 12288"),
        (bytes(400_000), 413, "larger than 0 MiB"),
    ]:
        answer = post(http, content)
        assert answer.status_code == status, answer.text
        assert words in answer.json()["detail"]
        assert str(tmp_path) not in answer.text
    assert post(http, long, settings={"end": 0.5}).status_code == 201
    assert len(list((store.folder / "jobs").iterdir())) == 1


def test_an_upload_without_a_length_is_counted(http):
    def endless():
        yield b'--x\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\n\r\n'
        for _ in range(50):
            yield bytes(10_000)

    answer = http.post("/api/jobs", content=endless(), headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("name", "shown", "kept"),
    [
        ("../../etc/passwd.mp4", "passwd.mp4", "source.mp4"),
        ("C:\\clips\\a.MOV", "a.MOV", "source.mov"),
        ("ab\u202e.mp4", "ab.mp4", "source.mp4"),
        ("..", "source", "source"),
        ("x" * 500 + ".mp4", "x" * 120, "source.mp4"),
    ],
)
def test_names_of_uploads_lead_nowhere(name, shown, kept, http, store, clip):
    job = post(http, clip, name=name).json()
    assert job["request"]["name"] == shown
    assert [path.name for path in store.folder_of(job["id"]).iterdir()] == [kept]


def test_no_file_but_a_job_s_own_is_read(http, store, clip):
    job = post(http, clip).json()
    (store.folder_of(job["id"]) / "secret.txt").write_text("secret")
    for name in ("secret.txt", "..%2f..%2fjobs.sqlite3", "%2e%2e/jobs.sqlite3", "source.mp4.json", "result.mp4"):
        assert http.get(f"/api/jobs/{job['id']}/files/{name}").status_code == 404
    assert http.get(f"/api/jobs/{job['id']}/files/source.mp4").content == clip
    for job_id in ("..", "%2e%2e", "x" * 16, ""):
        assert http.get(f"/api/jobs/{job_id}/files/jobs.sqlite3").status_code in (404, 307)


def test_an_upload_that_calls_itself_a_page_is_none(http, clip):
    for name in ("a.html", "a.svg", "a.js"):
        job = post(http, clip, name=name).json()
        answer = http.get(f"/api/jobs/{job['id']}/files/source.{name[2:]}")
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in answer.headers["content-security-policy"]


def test_a_full_queue_says_so(http, clip, store):
    jobs = [post(http, clip) for _ in range(LIMITS.queue)]
    assert {job.status_code for job in jobs} == {201}
    store.stop(jobs[0].json()["id"])
    assert post(http, clip).status_code == 201
    for answer in (post(http, clip), http.post(f"/api/jobs/{jobs[0].json()['id']}/retry")):
        assert answer.status_code == 429
        assert "3 jobs wait already" in answer.json()["detail"]


def test_a_full_disk_says_so_and_the_server_stays_up(http, clip, store, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sama_video.service.web._keep", full)
    answer = post(http, clip)
    assert answer.status_code == 507
    assert "disk is full" in answer.json()["detail"]
    monkeypatch.undo()
    assert list((store.folder / "jobs").iterdir()) == []
    assert post(http, clip).status_code == 201


def test_other_sites_and_other_names_are_refused(http, store):
    assert http.get("/api/jobs", headers={"Origin": "https://evil.example"}).status_code == 403
    assert http.get("/api/jobs", headers={"Origin": "http://localhost:8000"}).status_code == 200
    assert client(store, host="http://evil.example:8000").get("/api/jobs").status_code == 403
    assert client(store, token="abc", host="http://studio.example:8000").get("/api/jobs").status_code == 401


def test_a_token_is_asked_for_in_every_request(store):
    http = client(store, token="secret")
    for request in ({}, {"headers": {"Authorization": "Bearer wrong"}}, {"params": {"token": "x"}}):
        answer = http.get("/api/jobs", **request)
        assert answer.status_code == 401
        assert "token is missing or wrong" in answer.json()["detail"]
    assert http.get("/api/jobs", headers={"Authorization": "Bearer secret"}).status_code == 200
    assert http.get("/api/jobs", params={"token": "secret"}).status_code == 200
    assert http.get("/docs").status_code == 401
