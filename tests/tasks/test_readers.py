"""Every format gives the values and the rows that a user would name."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys

import pytest

from taskheads.errors import DataError
from taskheads.tasks.readers import read_table
from taskheads.tasks.readers.delimited import infer

ROWS = [
    {"text": 'say "hi",\nthere;\tnow', "label": "a", "n": 1, "x": 0.5},
    {"text": "naïve – ünïcödé \u2028 text", "label": "b", "n": -2, "x": 1e-3},
    {"text": "plain", "label": None, "n": None, "x": None},
]


@pytest.mark.parametrize(
    ("name", "delimiter"), [("a.csv", ","), ("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", "\t")]
)
def test_delimited_text_comes_back_as_written(tmp_path, name, delimiter):
    path = tmp_path / name
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ROWS[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)
    table = read_table(path)
    assert table.columns == {key: [row[key] for row in ROWS] for key in ROWS[0]}
    assert table.rows == [2, 4, 5]  # the first row's text has a line break


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson"])
def test_json_lines_keep_their_line_numbers_over_blank_lines_and_odd_separators(write, name):
    lines = [json.dumps(ROWS[0]), "", json.dumps(ROWS[1], ensure_ascii=False), json.dumps({"other": [1]})]
    table = read_table(write(name, "\r\n".join(lines)))
    assert table.rows == [1, 3, 4]
    assert table.columns["text"] == [ROWS[0]["text"], ROWS[1]["text"], None]
    assert table.columns["other"] == [None, None, [1]]


@pytest.mark.parametrize(
    "document",
    [
        [{"a": 1, "b": ["x"]}, {"a": 2, "b": []}],
        {"a": [1, 2], "b": [["x"], []]},
        {"version": "1", "data": [{"a": 1, "b": ["x"]}, {"a": 2, "b": []}]},
    ],
)
def test_json_documents_that_hold_rows(write, document):
    table = read_table(write("a.json", json.dumps(document, indent=1)))
    assert table.columns == {"a": [1, 2], "b": [["x"], []]}
    assert table.rows == [1, 2]


def test_json_lines_under_the_name_json(write):
    table = read_table(write("a.json", '{"a": 1}\n{"a": 2}\n'))
    assert (table.columns, table.rows) == ({"a": [1, 2]}, [1, 2])


def test_parquet_and_its_class_labels(tmp_path):
    import datasets

    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["neg", "pos"]),
            "tags": datasets.List(datasets.ClassLabel(names=["O", "B-x"])),
        }
    )
    rows = {"text": ["a", "b", "c"], "label": [1, 0, -1], "tags": [[0, 1], [], [1]]}
    dataset = datasets.Dataset.from_dict(rows, features=features)
    expected = {"text": ["a", "b", "c"], "label": ["pos", "neg", None], "tags": [["O", "B-x"], [], ["B-x"]]}
    dataset.to_parquet(tmp_path / "a.parquet")
    dataset.save_to_disk(tmp_path / "saved")
    for path in (tmp_path / "a.parquet", tmp_path / "saved"):
        table = read_table(path)
        assert table.columns == expected
        assert table.rows == [1, 2, 3]


def test_a_dataset_of_several_splits_is_not_one_table(tmp_path):
    import datasets

    one = datasets.Dataset.from_dict({"text": ["a"]})
    datasets.DatasetDict(train=one, test=one).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match="several splits \\('train', 'test'\\)"):
        read_table(tmp_path / "saved")


def test_cut_off_parquet(write):
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_table(write("a.parquet", b"PAR1 and then nothing"))


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "-2", ""], [1, -2, None]),
        (["1", "2.5", "1e3"], [1.0, 2.5, 1000.0]),
        (["007", "010"], ["007", "010"]),
        (["1_000", "2"], ["1_000", "2"]),
        (["1", "x"], ["1", "x"]),
        (["", ""], [None, None]),
        (['["a", "b"]', "[]", ""], [["a", "b"], [], None]),
        (["['a', 'b']", "['c']"], [["a", "b"], ["c"]]),
        (["[sic] he said [so]", "[x]"], ["[sic] he said [so]", "[x]"]),
        (["True", "False"], ["True", "False"]),
    ],
)
def test_cells_become_numbers_or_lists_only_together(cells, values):
    assert infer(cells) == values
    assert [type(value) for value in infer(cells)] == [type(value) for value in values]


def test_not_a_number_stays_in_a_numeric_column(write):
    values = read_table(write("a.csv", "text,x\na,1.5\nb,nan\nc,-inf\n")).columns["x"]
    assert values[0] == 1.5
    assert math.isnan(values[1])
    assert values[2] == -math.inf


def test_lone_quotation_marks_in_tab_separated_text_are_characters(write):
    table = read_table(write("a.tsv", 'text\tlabel\n"so it begins\tx\n5" pipe\ty\nb" c\tz\n'))
    assert table.columns["text"] == ['"so it begins', '5" pipe', 'b" c']
    assert table.rows == [2, 3, 4]


def test_the_csv_module_keeps_its_own_limit(write):
    before = csv.field_size_limit()
    long = "x" * 200_000
    assert read_table(write("a.csv", f"text\n{long}\n")).columns["text"] == [long]
    assert csv.field_size_limit() == before


CONLL = """-DOCSTART- -X- O

EU NNP B-ORG
rejects VBZ O

# NN O
tag NN O
"""


def test_conll_columns_are_named_and_sentences_known_by_their_first_line(write):
    table = read_table(write("a.conll", CONLL))
    assert table.columns == {
        "tokens": [["EU", "rejects"], ["#", "tag"]],
        "tags": [["NNP", "VBZ"], ["NN", "NN"]],
        "tags2": [["B-ORG", "O"], ["O", "O"]],
    }
    assert table.rows == [3, 6]


def test_conll_header_tabs_and_comments(write):
    text = "# columns = word pos\n# sent_id = 1\nNew York\tNNP\r\nis\tVB\r\n\r\n\r\n# newdoc\nit\tPRP\n"
    table = read_table(write("a.bio", text))
    assert table.columns == {"tokens": [["New York", "is"], ["it"]], "pos": [["NNP", "VB"], ["PRP"]]}
    assert table.rows == [3, 8]


def test_conllu(write):
    text = (
        "# text = vámonos ya\n1-2\tvámonos\t_\t_\t_\t_\t_\t_\t_\t_\n"
        "1\tvamos\tir\tVERB\t_\t_\t0\troot\t_\t_\n2\tnos\tnosotros\tPRON\t_\t_\t1\tobj\t_\t_\n"
        "2.1\tnull\t_\t_\t_\t_\t_\t_\t_\t_\n\n"
    )
    table = read_table(write("a.conllu", text))
    assert table.columns["tokens"] == [["vamos", "nos"]]
    assert table.columns["upos"] == [["VERB", "PRON"]]
    assert table.columns["head"] == [[0, 1]]
    assert table.rows == [3]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "a.csv: the file is empty"),
        ("a.jsonl", "\n \n", "a.jsonl: the file is empty"),
        ("a.csv", "text,label\n", "a.csv: the file has no rows"),
        ("a.json", "[]", "a.json: the file has no rows"),
        ("a.conll", "# columns = a b\n", "a.conll: the file has no rows"),
        ("a.csv", "text,label\na,b\nc,d,e\n", "a.csv, row 3: 3 cells, but the header has 2"),
        ("a.csv", "text,label,text\na,b,c\n", "a.csv, row 1, column 'text': two columns have this name"),
        ("a.csv", 'text\na\n"b" c\n', "a.csv, row 3: broken quoting"),
        ("a.csv", 'text,label\na,b\n"open,c\nd,e\n', "a.csv, row 3: broken quoting"),
        ("a.jsonl", '{"a": 1}\n[1]\n', "a.jsonl, row 2, value [1]: an object is needed, this is a list"),
        ("a.json", '[{"a": 1},\n {"a": }]', "a.json, row 2: broken JSON"),
        ("a.json", '{"a": [1], "b": [1, 2]}', "a.json: the rows were looked for as a list of objects"),
        ("a.json", '{"a": [{}], "b": [{}]}', "a.json: several lists of objects ('a', 'b')"),
        ("a.conll", "EU B\nrejects\n", "a.conll, row 2: has 1 of the 2 columns"),
        ("a.txt", "word\n", "a.txt, row 1: one column only"),
        ("a.csv", b"text\na\ncaf\xe9\n", "a.csv, row 3: byte 0xe9 at offset 10 is not UTF-8"),
        ("a.csv", b"\xef\xbb\xbftext\ncaf\xe9\n", "a.csv, row 2: byte 0xe9 at offset 11 is not UTF-8"),
        ("a.csv", "text\na\n".encode("utf-16"), "a.csv, row 1: the file is UTF-16"),
        ("a.docx", "x", "a.docx: cannot read '.docx' files"),
    ],
)
def test_broken_files_are_named_with_their_line(write, name, content, message):
    path = write(name, content)
    with pytest.raises(DataError) as caught:
        read_table(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path.parent))


def test_broken_json_on_line_700(write):
    lines = [json.dumps({"text": f"text {i}"}) for i in range(1000)]
    lines[699] = '{"text": "cut'
    with pytest.raises(DataError, match="row 700: broken JSON") as caught:
        read_table(write("a.jsonl", "\n".join(lines)))
    assert caught.value.row == 700


def test_a_byte_order_mark_is_no_part_of_the_first_column(write):
    assert list(read_table(write("a.csv", b"\xef\xbb\xbftext,label\na,b\n")).columns) == ["text", "label"]


def test_a_missing_file_is_told_from_its_neighbours(write):
    path = write("intents.jsonl", [{"a": 1}])
    with pytest.raises(DataError, match=r"no such file or folder \(did you mean 'intents.jsonl'\?\)"):
        read_table(path.with_name("intent.jsonl"))
    with pytest.raises(DataError, match="there is no folder"):
        read_table(path.parent / "nowhere" / "intents.jsonl")
    with pytest.raises(DataError, match="is a folder"):
        read_table(path.parent)


def test_a_hub_dataset_that_cannot_be_reached_is_one_sentence(tmp_path):
    """In a process of its own: the Hub's client reads the switch for offline work at its import."""
    program = "from taskheads.tasks.readers import read_table\nread_table('nobody/no-such-dataset')"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert (
        "DataError: nobody/no-such-dataset: is neither a file or folder here, nor could it" in result.stderr
    )


def test_understanding_data_imports_neither_torch_nor_what_is_slow():
    heavy = ["torch", "transformers", "datasets", "pyarrow", "pydantic", "yaml", "numpy", "pandas"]
    program = f"import sys, taskheads.tasks.suite\nprint([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
