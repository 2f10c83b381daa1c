"""The nodes for ComfyUI: here beside stand-ins of the few things they ask ComfyUI for, and in the real one.

The last test needs ComfyUI: COMFYUI names its folder, COMFYUI_PYTHON its Python, which has this package, too.
"""

import base64
import contextlib
import dataclasses
import importlib.util
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import save_file

from sama_video import EditSettings, edit_video, load_pipeline
from sama_video.models.presets import ASSETS
from sama_video.system.errors import UserError
from sama_video.video import VideoReader, write_lossless
from tests import tiny
from tests.clips import picture, write_clip

pytestmark = pytest.mark.usefixtures("one_thread")

FOLDER = Path(__file__).parents[2] / "integrations" / "comfyui"
NAME = "sama_comfyui_nodes"  # ComfyUI, too, loads the folder under a name of its own
OPTIONS = {"seed": 3, "steps": 0, "guidance": 0.0, "strength": 1.0, "feather": -1, "try_untaught": False}


class Stopped(Exception):
    """As `InterruptProcessingException`."""


@dataclasses.dataclass
class Components:
    """As `VideoComponents`."""

    images: torch.Tensor
    frame_rate: Fraction
    audio: dict | None = None


class Video:
    """As `VideoFromComponents`."""

    def __init__(self, components):
        self.components = components

    def get_components(self):
        return self.components

    def get_dimensions(self):
        return self.components.images.shape[2], self.components.images.shape[1]


class Comfy:
    """What the nodes ask of ComfyUI: its bars are kept, and it stops them after so many updates."""

    def __init__(self, loras):
        self.bars, self.stops_after, self.loras = [], None, loras

    def modules(self):
        comfy = self

        class ProgressBar:
            def __init__(self, _total):
                self.shown = []
                comfy.bars.append(self)

            def update_absolute(self, value, total, preview=None):
                self.shown.append((value, total, preview))

        def stop_if_asked():
            if comfy.stops_after is not None and len(comfy.bars[-1].shown) >= comfy.stops_after:
                raise Stopped

        management = {"throw_exception_if_processing_interrupted": stop_if_asked, "get_torch_device": lambda: "cpu"}
        paths = {
            "get_filename_list": lambda _: sorted(file.name for file in self.loras.iterdir()),
            "get_full_path_or_raise": lambda _, name: str(self.loras / name),
        }
        yield "comfy", {}
        yield "comfy.utils", {"ProgressBar": ProgressBar}
        yield "comfy.model_management", management
        yield "comfy_api", {}
        yield "comfy_api.input_impl", {"VideoFromComponents": Video}
        yield "folder_paths", paths


@pytest.fixture(scope="module")
def comfy(tmp_path_factory):
    comfy = Comfy(tmp_path_factory.mktemp("loras"))
    with pytest.MonkeyPatch.context() as patch:
        for name, values in comfy.modules():
            module = ModuleType(name)
            vars(module).update(values)
            patch.setitem(sys.modules, name, module)
            if "." in name:
                setattr(sys.modules[name.partition(".")[0]], name.partition(".")[2], module)
        yield comfy
    for name in [name for name in sys.modules if name.startswith(NAME)]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def package(comfy):
    spec = importlib.util.spec_from_file_location(
        NAME, FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = package
    spec.loader.exec_module(package)
    comfy.bars.clear()
    return package


@pytest.fixture(scope="module")
def clips(package):
    return importlib.import_module(f"{package.__name__}.clips")


@pytest.fixture(scope="module")
def nano(package):
    (model,) = package.NODE_CLASS_MAPPINGS["SamaLoadModel"]().load("nano", "auto", "default")
    return model


@pytest.fixture(scope="module")
def small(package):
    """A handle on a tiny model."""
    model_class = importlib.import_module(f"{package.__name__}.model").SamaModel
    return model_class(pipe=tiny.pipeline(native_num_frames=9, default_num_inference_steps=2))


def run(package, node, *args, **kwargs):
    made = package.NODE_CLASS_MAPPINGS[node]()
    with torch.inference_mode():  # as ComfyUI does
        (result,) = getattr(made, made.FUNCTION)(*args, **kwargs)
    return result


def demo(num_frames, size=None):
    frames = [frame.pixels for frame in VideoReader(ASSETS / "demo.mp4").frames(0.0, num_frames, size)]
    return torch.from_numpy(np.stack(frames)) / 255


def moving(num_frames, height=96, width=128):
    return np.stack([picture(index, height, width) for index in range(num_frames)])


def write_lora(path, pipe, seed=0, scale=1.0):
    out_features, in_features = pipe.transformer.blocks[0].attn1.to_q.weight.shape
    generator = torch.Generator().manual_seed(seed)
    down, up = (torch.randn(*shape, generator=generator) for shape in ((2, in_features), (out_features, 2)))
    name = "transformer.blocks.0.attn1.to_q.lora_"
    save_file({f"{name}A.weight": down, f"{name}B.weight": scale * up}, path)


def test_the_nano_s_edit_is_what_its_pipeline_makes(package, comfy, nano):
    comfy.bars.clear()
    images = demo(5, (128, 128))  # the model's own size: nothing is resized
    result = run(package, "SamaEditImages", nano, images, "Change the scene to nighttime", **OPTIONS)
    video = images.mul(255).round().byte().numpy()
    seed = torch.Generator().manual_seed(3)
    wanted = nano.pipe(video=video, prompt="Change the scene to nighttime", generator=seed, output_type="pt").frames[0]
    assert result.shape == images.shape
    assert result.dtype == torch.float32
    assert result.min() >= 0
    assert result.max() <= 1
    assert torch.equal(result, wanted.movedim(1, -1).cpu())
    assert result.mean() < 0.75 * images.mean()
    values, totals, previews = zip(*comfy.bars[-1].shown, strict=True)
    assert sorted(values) == list(values)
    assert values[-1] == totals[-1] == 1 + 5  # a step and five frames
    ((kind, shown, side),) = filter(None, previews)
    assert (kind, shown.mode, side) == ("JPEG", "RGB", 512)
    assert 0 < shown.width <= 128


@pytest.mark.parametrize(("height", "width"), [(32, 32), (96, 128)])
def test_an_edit_in_memory_equals_that_of_a_file(clips, small, tmp_path, height, width):
    frames = moving(13, height, width)
    frames[6:] = 255 - frames[6:]  # a cut
    write_lossless(tmp_path / "a.mp4", frames, Fraction(25))
    settings = {"seed": 5, "strength": 0.8}
    box = {"box": "25%,25%,50%,50%", "feather": 4}
    edit_video(
        small.pipe, tmp_path / "a.mp4", "make it red", tmp_path / "b.mp4", EditSettings(crf=0, **settings, **box)
    )
    wanted = np.stack([frame.pixels for frame in VideoReader(tmp_path / "b.mp4").frames()])
    result = clips.edit_clip(
        small.pipe,
        torch.from_numpy(frames) / 255,
        "make it red",
        EditSettings(**settings),
        mask=clips.box_mask(box["box"], height, width),
        feather=4,
    )
    assert np.abs(wanted.astype(int) - frames).max() > 10
    assert np.array_equal(result.mul(255).round().byte().numpy(), wanted)


def test_outside_of_a_mask_every_value_is_the_source_s(package, small):
    images = torch.rand(7, 64, 96, 3, generator=torch.Generator().manual_seed(0))  # no multiples of 1/255
    masks = torch.zeros(7, 64, 96)
    for index in range(7):
        masks[index, 8:40, 8 * index : 8 * index + 24] = 1
    options = OPTIONS | {"feather": 0}
    whole = run(package, "SamaEditImages", small, images, "make it red", **options)
    moved = run(package, "SamaEditImages", small, images, "make it red", mask=masks, **options)
    single = run(package, "SamaEditImages", small, images, "make it red", mask=masks[:1], **options)
    soft = run(package, "SamaEditImages", small, images, "make it red", mask=masks[:1], **options | {"feather": 8})
    inside, first = masks.bool(), masks[:1].bool().expand(7, -1, -1)
    assert torch.equal(moved[~inside], images[~inside])
    assert torch.equal(moved[inside], whole[inside])
    assert torch.equal(single[~first], images[~first])
    assert torch.equal(single[first], whole[first])
    assert not torch.equal(whole, images)
    change, full = ((one - images).abs()[:, 8:16, :8].sum(dim=(0, 2, 3)) for one in (soft, whole))
    assert (change / full).tolist() == pytest.approx([(n + 0.5) / 8 for n in range(8)], abs=0.02)


def test_a_video_keeps_its_rate_and_sound(package, small):
    images, sound = torch.from_numpy(moving(9)) / 255, {"waveform": torch.zeros(1, 2, 9), "sample_rate": 9}
    source = Video(Components(images=images, frame_rate=Fraction(30000, 1001), audio=sound))
    mask = run(package, "SamaBoxMask", "0,0,50%,100%", video=source)
    result = run(package, "SamaEditVideo", small, source, "make it red", mask=mask, **OPTIONS)
    made = result.get_components()
    assert (made.frame_rate, made.audio) == (Fraction(30000, 1001), sound)
    assert torch.equal(made.images, run(package, "SamaEditImages", small, images, "make it red", mask, **OPTIONS))
    assert torch.equal(source.get_components().images, torch.from_numpy(moving(9)) / 255)


def test_a_box_is_a_mask_in_the_size_of_what_is_connected(package):
    images = torch.zeros(2, 40, 60, 3)
    mask = run(package, "SamaBoxMask", "10,20,30,10", images=images)
    assert mask.shape == (1, 40, 60)
    assert mask[0, 20:30, 10:40].eq(1).all()
    assert mask.sum() == 300
    video = Video(Components(images=images, frame_rate=Fraction(1)))
    assert torch.equal(run(package, "SamaBoxMask", "0,50%,50%,50%", video=video)[0, 20:, :30], torch.ones(20, 30))
    check = package.NODE_CLASS_MAPPINGS["SamaBoxMask"].VALIDATE_INPUTS
    assert check("1,2,3,4") is True
    assert check() is True
    assert check("1,2") == "`box` must be X,Y,WIDTH,HEIGHT in pixels or in percent, such as 10%,20%,50%,50%, got '1,2'"


def test_a_lora_changes_its_own_branch_and_no_other(package, comfy, small):
    for seed, name in enumerate(("a.safetensors", "b.safetensors")):
        write_lora(comfy.loras / name, small.pipe, seed)
    images = torch.from_numpy(moving(5, 32, 32)) / 255

    def edit(model):
        return run(package, "SamaEditImages", model, images, "make it red", **OPTIONS)

    before, weights = edit(small), {key: value.clone() for key, value in small.pipe.transformer.state_dict().items()}
    one = run(package, "SamaLoadLora", small, "a.safetensors", 1.0)
    both = run(package, "SamaLoadLora", one, "b.safetensors", 0.5)
    none = run(package, "SamaLoadLora", small, "a.safetensors", 0.0)
    results = [edit(model) for model in (one, both)]
    for result in results:
        assert (result - before).abs().max() > 1e-3
    assert (results[0] - results[1]).abs().max() > 1e-3
    torch.testing.assert_close(edit(none), before)
    assert torch.equal(edit(small), before)
    assert torch.equal(edit(one), results[0])
    now = small.pipe.transformer.state_dict()
    assert now.keys() == weights.keys()
    assert all(torch.equal(now[key], value) for key, value in weights.items())
    own = tiny.pipeline(native_num_frames=9, default_num_inference_steps=2)
    own.load_lora_weights(str(comfy.loras / "a.safetensors"), adapter_name="own")
    alone = dataclasses.replace(small, pipe=own)
    assert torch.equal(edit(alone), results[0])


def test_weights_on_disk_are_opened_once_more_for_a_lora(package, comfy, nano):
    write_lora(comfy.loras / "nano.safetensors", nano.pipe, scale=0.2)
    on_disk = dataclasses.replace(nano, pipe=load_pipeline("nano", device="cpu", offload="disk"))
    images = demo(1, (128, 128))

    def edit(model):
        return run(package, "SamaEditImages", model, images, "Make it sepia", **OPTIONS)

    changed = run(package, "SamaLoadLora", on_disk, "nano.safetensors", 0.7)
    in_memory = run(package, "SamaLoadLora", nano, "nano.safetensors", 0.7)
    assert changed.pipe.loaded_as.offload == "disk"
    torch.testing.assert_close(edit(on_disk), edit(nano), atol=1e-4, rtol=0)
    torch.testing.assert_close(edit(changed), edit(in_memory), atol=1e-4, rtol=0)
    assert (edit(changed) - edit(nano)).abs().max() > 1e-3


def test_a_user_who_stops_an_edit_stops_it_and_the_model_works_on(package, comfy, small):
    write_lora(comfy.loras / "a.safetensors", small.pipe)
    images = torch.from_numpy(moving(5, 32, 32)) / 255
    model = run(package, "SamaLoadLora", small, "a.safetensors", 1.0)
    before = run(package, "SamaEditImages", model, images, "make it red", **OPTIONS)
    for comfy.stops_after in (0, 2, 5):
        with pytest.raises(Stopped):
            run(package, "SamaEditImages", model, images, "make it red", **OPTIONS)
    comfy.stops_after = None
    assert torch.equal(run(package, "SamaEditImages", model, images, "make it red", **OPTIONS), before)


def test_what_cannot_be_done_is_said_in_a_sentence(package, comfy, small, nano):
    images = torch.from_numpy(moving(5, 32, 32)) / 255
    write_lora(comfy.loras / "other.safetensors", nano.pipe)
    (comfy.loras / "text.safetensors").write_text("no LoRA")

    def edit(model=small, images=images, instruction="make it red", **options):
        run(package, "SamaEditImages", model, images, instruction, **OPTIONS | options)

    for message, wrong in [
        ("unknown model 'nanoo'", lambda: run(package, "SamaLoadModel", "nanoo", "auto", "default")),
        ("its weights do not ship", lambda: run(package, "SamaLoadModel", "wan2.1-14b", "auto", "default")),
        ("dragon is not among its 42 things", lambda: edit(nano, instruction="Add a dragon")),
        ("switch `try_untaught` on", lambda: edit(nano, instruction="Add a dragon")),
        ("prompt is empty", lambda: edit(instruction=" ")),
        (r"must be frames, height, width and 3 colours, got \[0, 32, 32, 3\]", lambda: edit(images=images[:0])),
        (r"got \[5, 32, 32, 4\]", lambda: edit(images=torch.zeros(5, 32, 32, 4))),
        ("not finite", lambda: edit(images=images / 0)),
        ("one frame or 5, each 32x32 as the clip, got 1 of 16x32", lambda: edit(mask=torch.ones(1, 32, 16))),
        ("one frame or 5, each 32x32 as the clip, got 3 of 32x32", lambda: edit(mask=torch.ones(3, 32, 32))),
        ("`mask` selects nothing", lambda: edit(mask=torch.zeros(1, 32, 32))),
        ("lies outside of the picture, which has 32x32", lambda: run(package, "SamaBoxMask", "40,0,9,9", None, images)),
        ("connect either `video` or `images`", lambda: run(package, "SamaBoxMask", "0,0,9,9")),
        ("other.safetensors does not fit", lambda: run(package, "SamaLoadLora", small, "other.safetensors", 1.0)),
        ("text.safetensors", lambda: run(package, "SamaLoadLora", small, "text.safetensors", 1.0)),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message) as raised:
            wrong()
        assert isinstance(raised.value, UserError) or "prompt" in message
    edit(nano, instruction="Add a dragon", try_untaught=True)
    assert not small.pipe.get_active_adapters()


def widgets(node, package):
    """Names of a node's inputs that are typed in, in the order in which a workflow lists their values."""
    inputs = {
        name: one for kind in package.NODE_CLASS_MAPPINGS[node].INPUT_TYPES().values() for name, one in kind.items()
    }
    for name, (kind, *options) in inputs.items():
        if isinstance(kind, list) or kind in ("STRING", "INT", "FLOAT", "BOOLEAN"):
            yield name
            if options and options[0].get("control_after_generate"):
                yield "control_after_generate"


def test_the_example_says_the_same_in_both_of_comfyui_s_formats(package):
    shown = json.loads((FOLDER / "example_workflows" / "sama_edit_video.json").read_text())
    posted = json.loads((FOLDER / "api_workflows" / "sama_edit_video.json").read_text())
    links = {link[0]: [str(link[1]), link[2]] for link in shown["links"]}
    assert {str(node["id"]): node["type"] for node in shown["nodes"]} == {
        number: node["class_type"] for number, node in posted.items()
    }
    for node in shown["nodes"]:
        if node["type"] not in package.NODE_CLASS_MAPPINGS:
            continue
        values = dict(zip(widgets(node["type"], package), node["widgets_values"], strict=True))
        values.pop("control_after_generate", None)
        connected = {one["name"]: links[one["link"]] for one in node["inputs"] if one.get("link")}
        inputs = posted[str(node["id"])]["inputs"]
        assert values | connected == inputs
        required = package.NODE_CLASS_MAPPINGS[node["type"]].INPUT_TYPES()["required"]
        assert required.keys() <= inputs.keys()


class Server:
    """A real ComfyUI on the CPU, with folders of its own and these nodes in them by a link."""

    def __init__(self, folder, python, base):
        for name in ("custom_nodes", "input", "output", "models/loras"):
            (base / name).mkdir(parents=True)
        (base / "custom_nodes" / "sama").symlink_to(FOLDER)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.base, self.log, self.client = base, base / "log.txt", uuid.uuid4().hex
        command = [python, str(folder / "main.py"), "--cpu", "--disable-auto-launch", "--port", str(self.port)]
        command += ["--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, cwd=base, stdout=log, stderr=subprocess.STDOUT, env=environment)

    def stop(self):
        self.process.terminate()
        self.process.wait(30)

    def ask(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/{path}", data, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def wait(self, path, seconds):
        """The first answer that says something."""
        for _ in range(2 * seconds):
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                if answer := json.loads(self.ask(path)):
                    return answer
            time.sleep(0.5)
        raise AssertionError(self.log.read_text())

    def run(self, workflow):
        """What the history says of a workflow once it is through: its end, its error if any, and its files."""
        job = json.loads(self.ask("prompt", {"prompt": workflow, "client_id": self.client}))["prompt_id"]
        done = self.wait(f"history/{job}", 300)[job]
        errors = [text["exception_message"] for kind, text in done["status"]["messages"] if kind == "execution_error"]
        files = [file for output in done["outputs"].values() for file in output["images"]]
        return done["status"]["status_str"], errors, files

    def fetch(self, file, to):
        to.write_bytes(self.ask("view?" + urllib.parse.urlencode(file)))
        return VideoReader(to)


class Listener(threading.Thread):
    """What ComfyUI says of a client's jobs while they run: JSON messages and preview pictures."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.messages, self.pictures = [], []
        self.stream = socket.create_connection(("127.0.0.1", server.port)).makefile("rwb")
        key = base64.b64encode(os.urandom(16)).decode()
        self.stream.write(
            f"GET /ws?clientId={server.client} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self.stream.flush()
        assert b" 101 " in self.stream.readline()
        while self.stream.readline() != b"\r\n":
            pass
        self.start()

    def run(self):
        while len(head := self.stream.read(2)) == 2:
            length = head[1]  # a server's are not masked
            if length >= 126:
                length = int.from_bytes(self.stream.read(2 if length == 126 else 8), "big")
            payload = self.stream.read(length)
            if head[0] & 15 == 1:
                self.messages.append(json.loads(payload))
            elif head[0] & 15 == 2 and payload[:8] == bytes([0, 0, 0, 1] * 2):  # a picture, a JPEG
                self.pictures.append(PIL.Image.open(io.BytesIO(payload[8:])))


def files_in(folder):
    return {(str(file), file.stat().st_mtime_ns) for file in folder.rglob("*") if file.is_file()}


@pytest.mark.slow
@pytest.mark.skipif("COMFYUI" not in os.environ, reason="COMFYUI names no folder of ComfyUI")
def test_in_a_real_comfyui(nano, tmp_path):
    folder, python = Path(os.environ["COMFYUI"]), os.environ.get("COMFYUI_PYTHON", sys.executable)
    before = files_in(folder)
    server = Server(folder, python, tmp_path / "comfyui")
    try:
        shutil.copy(ASSETS / "demo.mp4", server.base / "input" / "sama_demo.mp4")
        write_clip(server.base / "input" / "sound.mp4", 9, sound=True)
        write_lora(server.base / "models" / "loras" / "a.safetensors", nano.pipe, scale=0.2)
        nodes = server.wait("object_info", 120)
        assert {name for name in nodes if name.startswith("Sama")} == {
            "SamaLoadModel", "SamaLoadLora", "SamaEditVideo", "SamaEditImages", "SamaBoxMask"
        }  # fmt: skip
        assert nodes["SamaLoadLora"]["input"]["required"]["lora"][0] == ["a.safetensors"]
        assert json.loads(server.ask("workflow_templates")) == {"sama": ["sama_edit_video"]}
        _check_the_example(server, tmp_path)
        _check_branches_with_sound(server, tmp_path)
        _check_refusals(server)
        _check_a_stop(server)
    finally:
        server.stop()
    assert files_in(folder) == before


def _example():
    return json.loads((FOLDER / "api_workflows" / "sama_edit_video.json").read_text())


def _pixels(reader):
    return np.stack([frame.pixels for frame in reader.frames()]).astype(int)


def _check_the_example(server, folder):
    listener = Listener(server)
    end, errors, (file,) = server.run(_example())
    assert (end, errors) == ("success", [])
    result = server.fetch(file, folder / "example.mp4")
    assert (result.info.height, result.info.width, result.info.fps) == (288, 384, 16)
    source, edited = _pixels(VideoReader(ASSETS / "demo.mp4")), _pixels(result)
    assert edited.shape == source.shape == (33, 288, 384, 3)
    left, right = (slice(None), slice(None), slice(0, 180)), (slice(None), slice(None), slice(200, None))
    assert edited[left].mean() < 0.75 * source[left].mean()  # night
    assert np.abs(edited[right] - source[right]).mean() < 3  # the codec's
    progress = [one["data"] for one in listener.messages if one["type"] == "progress"]
    values, (total,) = [one["value"] for one in progress], {one["max"] for one in progress if one["value"] > 1}
    assert {one["node"] for one in progress} == {"4"}
    assert values == sorted(values)
    assert values[-1] == total > 33
    assert len(listener.pictures) == total - 33  # one after each step
    assert all(max(picture.size) == 512 for picture in listener.pictures)


def _check_branches_with_sound(server, folder):
    """One model in three branches: without a LoRA, with one, and as frames."""
    edit = _example()["4"]["inputs"] | {"video": ["2", 0]}
    del edit["mask"]
    save = _example()["5"]
    branches = {
        "1": _example()["1"],
        "2": {"class_type": "LoadVideo", "inputs": {"file": "sound.mp4"}},
        "6": {"class_type": "SamaLoadLora", "inputs": {"model": ["1", 0], "lora": "a.safetensors", "strength": 1.0}},
        "7": {"class_type": "SamaEditVideo", "inputs": edit | {"model": ["6", 0]}},
        "8": {"class_type": "SamaEditVideo", "inputs": edit},
        "9": {"class_type": "GetVideoComponents", "inputs": {"video": ["2", 0]}},
        "10": {
            "class_type": "SamaEditImages",
            "inputs": {name: value for name, value in edit.items() if name != "video"} | {"images": ["9", 0]},
        },
        "11": {
            "class_type": "CreateVideo",
            "inputs": {"images": ["10", 0], "audio": ["9", 1], "fps": 24.0},
        },
    }
    for number, video in ((12, "7"), (13, "8"), (14, "11")):
        saved = save["inputs"] | {"video": [video, 0], "filename_prefix": f"out{number}"}
        branches[str(number)] = save | {"inputs": saved}
    end, errors, files = server.run(branches)
    assert (end, errors) == ("success", [])
    clips = {file["filename"][:5]: server.fetch(file, folder / file["filename"]) for file in files}
    for clip in clips.values():
        assert (clip.info.num_frames, clip.info.fps, clip.info.has_audio) == (9, 24, True)
    with_lora, plain, as_images = (_pixels(clips[name]) for name in ("out12", "out13", "out14"))
    assert np.array_equal(plain, as_images)
    assert np.abs(with_lora - plain).mean() > 1


def _check_refusals(server):
    workflow = _example()
    workflow["4"]["inputs"]["instruction"] = "Add a dragon"
    end, errors, _ = server.run(workflow)
    assert end == "error"
    assert "dragon is not among its 42 things" in errors[0]
    workflow["3"]["inputs"]["box"] = "1,2"
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.run(workflow)
    assert "`box` must be X,Y,WIDTH,HEIGHT" in refused.value.read().decode()


def _check_a_stop(server):
    workflow = _example()
    workflow["4"]["inputs"] |= {"seed": 1, "steps": 1000}
    listener = Listener(server)
    job = json.loads(server.ask("prompt", {"prompt": workflow, "client_id": server.client}))["prompt_id"]
    while not listener.pictures:
        time.sleep(0.1)
    server.ask("interrupt", {})
    messages = server.wait(f"history/{job}", 60)[job]["status"]["messages"]
    assert messages[-1][0] == "execution_interrupted"
    assert server.run(_example())[0] == "success"
