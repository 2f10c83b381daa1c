"""A manifest means the same rows whatever tool wrote it, wherever it lies and in whatever format."""

import json
import os

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sama_video.data.delimited import find_separator
from sama_video.data.manifest import (
    EDIT_PAIR,
    KNOWN,
    LAYOUTS,
    Manifest,
    Row,
    _plain,
    choose_layout,
    local_file,
    parse_column_map,
    read_manifest,
    write_manifest,
)
from sama_video.system.errors import UserError

TO_EDIT = ("src_video", "prompt")
CAPTIONED = ("tgt_video", "prompt")


def write_csv(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def pair(path, header, **options):
    """Names of source and target and the prompt of a one-row manifest whose values are its column names."""
    row = read_manifest(write_csv(path, header, header), **options)[0]
    names = [media and os.path.basename(media) for media in (row.src_video, row.tgt_video)]
    return (*names, row.prompt)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("src_video,tgt_video,prompt,ref_image", ("src_video", "tgt_video", "prompt")),
        ("video,prompt,vace_video,vace_reference_image", ("vace_video", "video", "prompt")),
        ("image,prompt,edit_image", ("edit_image", "image", "prompt")),
        ("source_path,edited_path,instruction,source_caption", ("source_path", "edited_path", "instruction")),
        ("original_video,edited_type,prompt,edited_video", ("original_video", "edited_video", "prompt")),
        ("original_video,edited_video,edit_instruction", ("original_video", "edited_video", "edit_instruction")),
        ("original_image,edited_image,text", ("original_image", "edited_image", "text")),
        ("file_path,text,type,control_file_path", ("control_file_path", "file_path", "text")),
        ("video,caption,reference_video", ("reference_video", "video", "caption")),
        ("media_path,caption,ref_media_path", ("ref_media_path", "media_path", "caption")),
        ("video_path,caption,control_path", ("control_path", "video_path", "caption")),
        ("image_path,caption,control_path", ("control_path", "image_path", "caption")),
        ("original_video,edited_video,instruction", ("original_video", "edited_video", "instruction")),
    ],
)
@pytest.mark.parametrize("required", [EDIT_PAIR, TO_EDIT, CAPTIONED])
def test_pairs_of_every_tool(tmp_path, header, expected, required):
    assert pair(tmp_path / "m.csv", header, required=required) == expected


@pytest.mark.parametrize(
    ("header", "required", "expected"),
    [
        ("video,prompt,output", TO_EDIT, ("video", None, "prompt")),
        ("video_path,instruction", TO_EDIT, ("video_path", None, "instruction")),
        ("original_video,edited_type,prompt", TO_EDIT, ("original_video", None, "prompt")),
        ("video,caption", CAPTIONED, (None, "video", "caption")),
        ("file_path,text,type", CAPTIONED, (None, "file_path", "text")),
        ("media_path,caption", CAPTIONED, (None, "media_path", "caption")),
        ("image_path,caption", CAPTIONED, (None, "image_path", "caption")),
    ],
)
def test_a_lone_video_is_what_is_asked_for(tmp_path, header, required, expected):
    assert pair(tmp_path / "m.csv", header, required=required) == expected
    with pytest.raises(UserError, match="no known layout"):
        pair(tmp_path / "m.csv", header)


def test_of_equally_good_layouts_the_first_counts():
    columns = ("video", "prompt", "vace_video", "reference_video")
    assert choose_layout(columns, EDIT_PAIR).name == "DiffSynth-Studio videos"
    assert choose_layout(columns, EDIT_PAIR, LAYOUTS[::-1]).name == "LTX-2 trainer"


@pytest.mark.parametrize("header", ["file_path,text,type,control_file_path", "file_path,text,type"])
def test_a_media_type_is_no_edit_type(tmp_path, header):
    path = write_csv(tmp_path / "m.csv", header, "a,b,video,c" if "control" in header else "a,b,video")
    row = read_manifest(path, required=CAPTIONED)[0]
    assert row.type is None
    assert row.extra == {"manifest_type": "video"}


def test_edit_types_by_other_names(tmp_path):
    path = write_csv(tmp_path / "m.csv", "original_video,edited_video,edited_type,prompt", "a,b,style,c")
    assert read_manifest(path)[0].type == "style"


def test_videos_and_images_may_have_columns_of_their_own(tmp_path):
    manifest = write_csv(
        tmp_path / "m.csv",
        "original_video,edited_video,original_image,edited_image,text",
        "a.mp4,b.mp4,,,x",
        ",,a.png,b.png,y",
    )
    assert [os.path.basename(row.src_video) for row in read_manifest(manifest)] == ["a.mp4", "a.png"]


def test_the_column_map_goes_first(tmp_path):
    path = write_csv(tmp_path / "m.csv", "video,after,prompt,what", "v.mp4,a.mp4,old,new")
    column_map = parse_column_map(["src_video=video", "tgt_video=after", "prompt=what"])
    row = read_manifest(path, column_map=column_map)[0]
    assert (row.src_video, row.prompt) == (str(tmp_path / "v.mp4"), "new")
    assert row.extra == {"manifest_prompt": "old"}
    spoken = parse_column_map(["source=video", "target=after", "prompt=what"])
    assert read_manifest(path, column_map=spoken)[0] == row
    with pytest.raises(UserError, match="no column 'nothing' for prompt; it has video, after"):
        read_manifest(path, column_map={"prompt": "nothing"})
    with pytest.raises(UserError, match="no field 'video'"):
        read_manifest(path, column_map={"video": "video"})
    with pytest.raises(UserError, match="FIELD=COLUMN"):
        parse_column_map(["prompt"])


def test_a_missing_column_says_what_was_tried(tmp_path):
    path = write_csv(tmp_path / "m.csv", "src_video,prompt", "a,b")
    with pytest.raises(UserError, match=r"tgt_video \(tried tgt_video, edited_path, edited_video.*`column_map` tgt_vi"):
        read_manifest(path)
    path = write_csv(tmp_path / "m.csv", "src_video,edited_path,prompt", "a,b,c")
    with pytest.raises(UserError, match=r"no src_video .*; tgt_video .*; prompt"):
        read_manifest(path)


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
def test_every_format_says_the_same(tmp_path, suffix):
    records = [
        {"src_video": "a.mp4", "tgt_video": "b.mp4", "prompt": "eins, „zwei“\n", "seed": "007"},
        {"src_video": "/x/a.mp4", "tgt_video": "s3://bucket/b.mp4", "prompt": "", "seed": None},
    ]
    path = tmp_path / f"m{suffix}"
    if suffix == ".csv":
        lines = 'src_video,tgt_video,prompt,seed\na.mp4,b.mp4,"eins, „zwei“\n",007\n\n/x/a.mp4,s3://bucket/b.mp4,,\n'
        path.write_text(lines, encoding="utf-8-sig")
    elif suffix == ".json":
        path.write_text(json.dumps({"version": 1, "data": records}), encoding="utf-8-sig")
    elif suffix == ".jsonl":
        path.write_text("\n\n".join(map(json.dumps, records)), encoding="utf-8-sig")
    else:
        pq.write_table(pa.Table.from_pylist([record | {"picture": {"bytes": b"png"}} for record in records]), path)
    manifest = read_manifest(path)
    assert list(manifest) == [manifest[0], manifest[1]] == list(manifest[:])
    first, second = manifest
    assert first == Row(
        id="00000001",
        src_video=str(tmp_path / "a.mp4"),
        tgt_video=str(tmp_path / "b.mp4"),
        prompt="eins, „zwei“\n",
        extra={"seed": "007"},
    )
    assert second == Row(id="00000002", src_video="/x/a.mp4", tgt_video="s3://bucket/b.mp4")


def test_values_that_are_no_text(tmp_path):
    path = tmp_path / "m.json"
    path.write_text(json.dumps([{"id": 7, "src_video": "a", "tgt_video": "b", "prompt": "c", "box": [1, 2]}]))
    row = read_manifest(path)[0]
    assert (row.id, row.extra) == ("7", {"box": "[1, 2]"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.txt", b"a", r"a manifest is \.csv, \.tsv, \.json"),
        ("m.csv", b"", "has no rows"),
        ("m.csv", b"src_video,tgt_video,prompt\n", "has no rows"),
        ("m.csv", b"src_video,tgt_video,prompt\na,b,c\na,b\n", "line 3 has 2 values"),
        ("m.csv", b'src_video,tgt_video,prompt\na,b,c\na,"b"x,c\n', "line 3 is broken"),
        ("m.csv", b"prompt,prompt\na,b\n", "names a column twice"),
        ("m.csv", b"src_video,tgt_video,prompt\na,b,\xff\n", "cannot read the manifest"),
        ("m.jsonl", b'{"a": 1}\n{"a": \n', "line 2 is no JSON object"),
        ("m.jsonl", b"[1]\n", "line 1 is no JSON object"),
        ("m.json", b"", "cannot read the manifest"),
        ("m.json", b"{}", "an object with one list"),
        ("m.json", b"[1]", "expected an object"),
        ("m.json", b"3", "expected a list of objects"),
        ("m.parquet", b"PAR1", "cannot read the manifest"),
    ],
)
def test_broken_manifests(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_manifest(tmp_path / name)


@pytest.mark.parametrize("path", ["none.csv", "memory://none/m.csv", "nonsense://m.csv"])
def test_manifests_that_are_not_there(path):
    with pytest.raises(UserError, match="cannot read the manifest"):
        read_manifest(path)


def test_a_manifest_at_a_url():
    with fsspec.open("memory://pairs/sub/m.csv", "w") as file:
        file.write("src_video,tgt_video,prompt\na.mp4,../b.mp4,x\n/a.mp4,https://example.org/b.mp4,y\n")
    with fsspec.open("memory://pairs/b.mp4", "wb") as file:
        file.write(b"film")
    first, second = read_manifest("memory://pairs/sub/m.csv")
    assert (first.src_video, first.tgt_video) == ("memory://pairs/sub/a.mp4", "memory://pairs/b.mp4")
    assert (second.src_video, second.tgt_video) == ("/a.mp4", "https://example.org/b.mp4")
    with local_file(first.tgt_video) as copy:
        assert copy.read_bytes() == b"film"
        assert copy.suffix == ".mp4"
    assert not copy.exists()
    with pytest.raises(UserError, match="cannot fetch memory://pairs/sub/a"), local_file(first.src_video):
        pass


def test_media_below_another_root(tmp_path):
    path = write_csv(tmp_path / "m.csv", "src_video,tgt_video,prompt", "a.mp4,s/b.mp4,x")
    assert read_manifest(path, root="memory://films")[0].tgt_video == "memory://films/s/b.mp4"
    assert read_manifest(path, root=tmp_path / "x" / "..")[0].src_video == str(tmp_path / "a.mp4")


def test_indices_and_slices(tmp_path):
    path = write_csv(tmp_path / "m.csv", "src_video,tgt_video,prompt", *(f"a,b,{n}" for n in range(7)))
    manifest = read_manifest(path)
    assert len(manifest) == 7
    assert manifest[-1] == manifest[6]
    assert [row.id for row in manifest[5:]] == ["00000006", "00000007"]
    assert [row.prompt for row in manifest[::-3]] == ["6", "3", "0"]
    with pytest.raises(IndexError):
        manifest[7]


texts = st.text(min_size=1, max_size=20)
# Paths are given in normal form: without ., .. and doubled slashes.
names = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="/\0:"), min_size=1).filter(
    lambda name: name not in (".", "..")
)
media = st.one_of(
    st.lists(names, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts)),
    names.map(lambda name: f"s3://bucket/{name}"),
)
rows = st.builds(
    Row,
    id=texts,
    **dict.fromkeys(("prompt", "type", "task"), st.none() | texts),
    **dict.fromkeys(("src_video", "tgt_video", "ref_image", "mask"), st.none() | media),
    extra=st.dictionaries(texts.filter(lambda name: _plain(name) not in KNOWN), texts, max_size=3),
)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=st.lists(rows, min_size=1, max_size=4))
def test_round_trip(tmp_path, suffix, written):
    path = tmp_path / f"m{suffix}"
    write_manifest(path, written)
    assert list(read_manifest(path)) == written


def test_media_beside_the_manifest_are_relative(tmp_path):
    inside, outside = str(tmp_path / "clips" / "a.mp4"), "/elsewhere/b.mp4"
    written = [Row(id="1", src_video=inside, tgt_video=outside, prompt="x")]
    write_manifest(tmp_path / "m.csv", written)
    assert "1,clips/a.mp4,/elsewhere/b.mp4,x" in (tmp_path / "m.csv").read_text()
    assert list(read_manifest(tmp_path / "m.csv")) == written


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"use one of \.csv, \.jsonl, \.parquet"):
        write_manifest(tmp_path / "m.txt", [])
    with pytest.raises(ValueError, match="named like fields, got prompt"):
        write_manifest(tmp_path / "m.csv", [Row(id="1", extra={"prompt": "x"})])
    assert not list(tmp_path.iterdir())


def test_an_empty_selection_can_be_written(tmp_path):
    write_manifest(tmp_path / "m.csv", [])
    assert (tmp_path / "m.csv").read_text().strip() == "id,src_video,tgt_video,prompt"


def test_where_keeps_rows_and_their_ids(tmp_path):
    path = write_csv(tmp_path / "m.csv", "src_video,tgt_video,prompt", "a,b,x", "a,b,", "a,b,z")
    manifest = read_manifest(path)
    kept = manifest.where(pa.array([True, None, True]))
    assert isinstance(kept, Manifest)
    assert [row.id for row in kept] == ["00000001", "00000003"]


PROMPT = "Make it red, not blue; please"
TABLES = {
    "commas": f'src_video,tgt_video,prompt\na.mp4,b.mp4,"{PROMPT}"\n',
    "semicolons": f'src_video;tgt_video;prompt\na.mp4;b.mp4;"{PROMPT}"\n',
    "semicolons, a comma in the prompt": "src_video;tgt_video;prompt\na.mp4;b.mp4;Make it red, not blue\n",
    "tabs": f"src_video\ttgt_video\tprompt\na.mp4\tb.mp4\t{PROMPT}\n",
    "bars": f"src_video|tgt_video|prompt\na.mp4|b.mp4|{PROMPT}\n",
    "told": f'sep=;\nsrc_video;tgt_video;prompt\na.mp4;b.mp4;"{PROMPT}"\n',
    "a comma in the header": "src_video;tgt_video;prompt;seen, and liked\na.mp4;b.mp4;Make it red, not blue;yes, no\n",
    "capitals and blanks": f'Src_Video, TGT_VIDEO ,"Prompt "\na.mp4,b.mp4,"{PROMPT}"\n',
    "words": f'Src Video;Tgt-Video;PROMPT\na.mp4;b.mp4;"{PROMPT}"\n',
    "numbered rows": f',src_video,tgt_video,prompt\n0,a.mp4,b.mp4,"{PROMPT}"\n',
}


@pytest.mark.parametrize("ends", ["\n", "\r\n"], ids=["unix", "windows"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("table", TABLES)
def test_tables_of_every_spreadsheet(tmp_path, table, encoding, ends):
    (tmp_path / "m.csv").write_bytes(TABLES[table].replace("\n", ends).encode(encoding))
    (row,) = read_manifest(tmp_path / "m.csv")
    expected = "Make it red, not blue" if "comma in the" in table else PROMPT
    assert (row.src_video, row.tgt_video, row.prompt) == (str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4"), expected)


def test_a_tsv_file_and_lines_inside_quotes(tmp_path):
    (tmp_path / "m.tsv").write_text('src_video\ttgt_video\tprompt\na\tb\t"two\nlines, ""quoted"""\n\nc\td\te\n')
    assert [row.prompt for row in read_manifest(tmp_path / "m.tsv")] == ['two\nlines, "quoted"', "e"]


def test_columns_that_nobody_knows_are_even_in_one_way_only():
    nobody = lambda _: False  # noqa: E731
    assert find_separator(["before;after, maybe\n", "a;b\n", "c;d\n"], nobody) == ";"
    assert find_separator(["alone\n", "a;b,c\n"], nobody) == ","
    with pytest.raises(UserError, match="may be separated by commas or semicolons"):
        find_separator(["before;after,later\n", "a;b,c\n"], nobody)


def test_names_of_the_column_map_and_of_shapes_are_found_in_any_case(tmp_path):
    path = write_csv(tmp_path / "m.csv", "Before;After;What;Num_Frames;Other", "a;b;c;9;x")
    (row,) = read_manifest(path, column_map={"src_video": "before", "tgt_video": "After", "prompt": "what"})
    assert (row.prompt, row.extra) == ("c", {"num_frames": "9", "Other": "x"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Prompt,prompt,src_video,tgt_video\na,b,c,d\n", "'Prompt' and 'prompt' have one meaning"),
        (b"src_video;tgt_video;prompt\na;b;c;d\n", "line 2 has 4 values.*that hold semicolons"),
        (b"sep=;\nsrc_video;tgt_video;prompt\na;b;c;d\n", "line 3 has 4 values"),
        ("src_video,tgt_video,prompt\na,b,c\n".encode("utf-16-le"), "UTF-16 without its mark"),
        ("src_video,tgt_video,prompt\na,b,schön\n".encode("cp1252"), "it is not UTF-8.*save it as UTF-8"),
    ],
)
def test_tables_that_cannot_be_told(tmp_path, content, message):
    (tmp_path / "m.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_manifest(tmp_path / "m.csv")


def test_the_message_speaks_of_what_the_command_has(tmp_path):
    path = write_csv(tmp_path / "m.csv", "before,after,what", "a,b,c")
    for option, said in (
        ("--column-map ", "name the column with --column-map src_video=COLUMN"),
        ("--set data.datasets.0.columns=", "name the column with --set data.datasets.0.columns=src_video=COLUMN"),
        (None, "rename the column"),
    ):
        with pytest.raises(UserError) as told:
            read_manifest(path, map_option=option)
        assert str(told.value).endswith(said)
