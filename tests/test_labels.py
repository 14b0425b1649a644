"""Genre tables in common formats: each rule of README.md, read or rejected."""

import codecs

import pytest
from films import TINY, load_prepare, write_video
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import divita

prepare = load_prepare()
X, Y, Z = [1, 0], [0, 1], [1, 1]


@pytest.fixture
def read(tmp_path):
    """Read a table given as text or bytes -> (Labels, remarks)."""

    def read(table):
        (tmp_path / "mine.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
        return prepare.read_genre_table(tmp_path / "mine.csv")

    return read


def lines(*rows):
    return "\n".join(rows) + "\n"


FLAGS = lines("mid,Drama,War", "a,1,0", "b,0,1", "c,1,1")
WORDS = lines("mid,genres", "a,Drama", "b,War", "c,Drama|War")

READ = {  # a table of the trailers a, b, c whose genres are X, Y, Z
    "present format": lines("mid,Drama,War,split0,split1", "a,1,0,0,1", "b,0,1,1,2", "c,1,1,2,0"),
    "semicolons": FLAGS.replace(",", ";"),
    "tabs": FLAGS.replace(",", "\t"),
    "byte order mark": codecs.BOM_UTF8 + FLAGS.encode(),
    "UTF-16": FLAGS.replace(",", "\t").encode("utf-16"),
    "UTF-16, big endian": codecs.BOM_UTF16_BE + FLAGS.encode("utf-16-be"),
    "old Macintosh": FLAGS.replace("\n", "\r"),
    "empty rows and columns": lines(";;;;;", "mid;Drama;War;;;", "a;1;0;;;", "", "b;0;1;;;", "c;1;1;;;", ";;;;;"),
    "separators in a header's quotes": lines('mid,"a;b;c;d","e\nf",genre', "a,,,Drama", "b,,,War", "c,,,Drama|War"),
    "suffix": FLAGS.replace("\na,", "\na.MP4,").replace("b,", "b.webm,"),
    "folder": FLAGS.replace("\na,", "\nclips/x/a.mkv,").replace("b,", "C:\\clips\\b.mov,"),
    "blanks": lines("mid, Drama ,War", " a , 1,0", "b,0,1 ", "c\u00a0,1,1"),
    "booleans": lines("file_name,Drama,War", "a,TRUE,False", "b,FALSCH,wahr", "c,True,true"),
    "floats": lines("YouTube ID,Drama,War", "a,1.0,0.0", "b,0.0,1.0", "c,1.0,1.0"),
    "decimal commas": lines("Datei;Drama;War", 'a;1,0;0,0', 'b;0,0;1,0', "c;1,0;1,0"),
    "yes and no": lines("fname,Drama,War", "a,yes,no", "b,No,Yes", "c,yes,yes"),
    "marks": lines("Id,Drama,War", "a,x,", "b,,X", "c,x,x"),
    "an index": lines(",movieId,Drama,War", "7,a,1,0", "3,b,0,1", "9,c,1,1"),
    "other flags beside text": lines("tconst,isAdult,genres", "a,0,Drama", "b,1,War", 'c,0,"War,Drama"'),
    "a flag with a mid's name": lines("id,video,genres", "a,False,Drama", "b,False,War", "c,True,Drama;War"),
    "bars": WORDS,
    "blanks of all kinds": lines("id,genres", "a,\u00a0Drama |  ", "b,War", "c,War\t|Drama"),
    "a bar at the end": WORDS.replace("Drama\n", "Drama|\n"),
    "Python's lists": lines("id,Genre", "a,['Drama']", "b,['War']", "c,\"['War', 'Drama']\""),
    "NumPy's lists": lines("id,Genre", "a,['Drama']", "b,['War']", "c,['War' 'Drama']"),
    "JSON": lines("id,tags", 'a,"[""Drama""]"', 'b,"[""War""]"', 'c,"[""War"", ""\\u0044rama""]"'),
    "dictionaries": lines("id,genres", "a,\"[{'id': 1, 'name': 'Drama'}]\"", "b,\"[{'id': 2, 'name': 'War'}]\"")
    + "c,\"[{'id': 1, 'name': 'Drama'}, {'id': 2, 'name': 'War'}]\"\n",
    "choices": lines("id,genre", "a,Drama", 'b,"{""choices"": ""War""}"', 'c,"{""choices"": [""Drama"", ""War""]}"'),
    "a row per genre": lines("movie_id,title,genre", "a,x,Drama", "b,y,War", "c,z,Drama", "c,z,War"),
    "quotes that mean nothing": lines("tconst\ttitle\tgenres", 'a\t"A" b\tDrama', 'b\t"B\tWar', 'c\tC"\tDrama,War'),
    "quotes that mean something": lines("tconst\t\tgenres", 'a\t\t"Drama"', 'b\t\tWar', 'c\t\t"War,Drama"'),
    "a line's end in a title": lines("id,title,genres", 'a,"A\nb",Drama', "b,,War", 'c,,"War, Drama"'),
}  # fmt: skip


@pytest.mark.parametrize("table", READ.values(), ids=READ)
def test_tables_in_common_formats_are_read(read, table):
    labels, remarks = read(table)
    assert labels.mids == ["a", "b", "c"] and labels.genres == ["Drama", "War"] and labels.y.tolist() == [X, Y, Z]
    assert remarks[0].endswith("genres: Drama 2, War 2") and "3 trailers" in remarks[0]


REJECTED = {  # (table, words of the message ...)
    "Windows-1252": (FLAGS.replace("War", "Kom\xf6die").encode("cp1252"), "save it as CSV UTF-8"),
    "UTF-16 without a byte order mark": (FLAGS.encode("utf-16-le"), "save it as CSV UTF-8"),
    "a quote left open": (WORDS.replace("War\n", '"War\n'), "line 4", "quotes"),
    "cells that are not quoted": (WORDS.replace("Drama|War", "Drama, War"), "line 4", "quote"),
    "no mid": (FLAGS.replace("mid", "title"), "no mid column", "title"),
    "two mids": (lines("Id,id,genre", "a,d,War", "b,e,War", "c,f,War"), "'Id' and 'id'", "mid"),
    "an id and a file": (lines("id,video,genre", "1,a,War", "2,b,War", "3,c,War"), "'id' and 'video'", "mid"),
    "duplicate column": (FLAGS.replace("War", "Drama"), "duplicate column 'Drama'"),
    "nameless content": (lines("mid,Drama,,War", "a,1,,0", "b,0,good,1", "c,1,,1"), "nameless column 3", "'good'"),
    "nameless flags": (lines("mid,Drama,", "a,1,0", "b,0,0", "c,1,1"), "nameless column 3"),
    "duplicate trailer": (FLAGS.replace("c,", "x/a.mp4,"), "line 4", "duplicate trailer a"),
    "duplicate trailer with a list": (WORDS.replace("b,", "a,"), "line 3", "duplicate trailer a"),
    "duplicate row": (WORDS.replace("Drama|War", "War").replace("c,", "b,"), "line 4", "duplicate trailer b"),
    "rows in two subsets": (lines("id,genre,split", "a,War,train", "a,Drama,test"), "line 3", "duplicate trailer a"),
    "no mid in a row": (FLAGS.replace("b,", ","), "line 3"),
    "no genres": (lines("mid,title", "a,A", "b,B", "c,C"), "no genres"),
    "no known genre": (lines("mid,genres", "a,", "b,N/A", "c,\\N"), "'genres'"),
    "an empty cell beside 0": (FLAGS.replace("b,0", "b,"), "line 3", "Drama of b is empty"),
    "NaN": (FLAGS.replace("b,0", "b,nan"), "line 3", "Drama of b is 'nan'"),
    "NaN among marks": (lines("mid,Drama", "a,1", "b,nan", "c,nan"), "line 3", "Drama of b"),
    "a 2": (FLAGS.replace("b,0", "b,2"), "line 3", "Drama of b is '2'"),
    "is_": (FLAGS.replace("War", "is_long"), "'is_long'"),
    "isAdult": (FLAGS.replace("War", "isAdult"), "'isAdult'"),
    "seen": (FLAGS.replace("War", "Seen?"), "'Seen?'"),
    "no genres listed": (FLAGS.replace("War", "(no genres listed)"), "(no genres listed)"),
    "N/A": (FLAGS.replace("War", "N/A"), "'N/A'"),
    "one 0/1 label": (lines("mid,label", "a,1", "b,0", "c,1"), "'label'"),
    "case of columns": (FLAGS.replace("War", "drama"), "'Drama' and 'drama'"),
    "case of words": (WORDS.replace("|War", "|war"), "'War' and 'war'"),
    "two texts": (lines("mid,genre,genres", "a,War,War", "b,War,War", "c,War,War"), "'genre' and 'genres'"),
    "blanks in a plural": (lines("mid,labels", "a,car horse", "b,car", "c,boat"), "line 2", "labels", "|"),
    "blanks between genres": (lines("mid,genre", "a,Drama War", "b,War", "c,Drama"), "line 2", "'Drama War'"),
    "slashes between genres": (lines("mid,genre", "a,Drama/War", "b,War", "c,Drama"), "line 2", "'Drama/War'"),
    "two separators": (WORDS.replace("a,Drama", 'a,"War, Drama"'), "line 2", "'War, Drama'", "|"),
    "a line's end between genres": (WORDS.replace("a,Drama", 'a,"War\nDrama"'), "line 3", "genres"),
    "a list of bare words": (WORDS.replace("a,Drama", "a,[Drama]"), "line 2", "'[Drama]'"),
    "a list that is not closed": (WORDS.replace("a,Drama", "a,['Drama'"), "line 2"),
    "a dictionary without names": (WORDS.replace("a,Drama", "a,{'id': 1}"), "line 2"),
    "numbers": (lines("mid,label", "a,3", "b,5", "c,7"), "line 2", "label is '3'"),
    "0/1 in a list": (lines("mid,labels", 'a,"[0, 1]"', 'b,"[1, 0]"', 'c,"[1, 1]"'), "line 2", "labels"),
    "subset": (lines("mid,War,subset", "a,1,0", "b,0,1", "c,1,2"), "'subset' looks like a split; name it split0"),
    "subset beside text": (lines("mid,genre,subset", "a,War,0", "b,War,1", "c,War,2"), "'subset'", "split0"),
    "is_valid": (lines("mid,genre,is_valid", "a,War,True", "b,War,False", "c,War,False"), "'is_valid'"),
    "other words": (lines("mid,War,split", "a,1,train", "b,0,val", "c,1,left"), "'split'", "split0"),
    "a genre train": (FLAGS.replace("War", "train"), "'train' looks like a split"),
    "no validation": (lines("mid,War,subset", "a,1,train", "b,0,test", "c,1,test"), "validation of subset"),
    "no test": (lines("mid,War,split0,split1", "a,1,0,0", "b,0,1,1", "c,1,2,1"), "test of split1"),
    "a 3": (lines("mid,War,split0", "a,1,0", "b,0,1", "c,1,3"), "line 4", "split0 is '3'"),
    "no split0": (lines("mid,War,split1", "a,1,0", "b,0,1", "c,1,2"), "split1"),
    "split0 and split": (lines("mid,War,split0,split", "a,1,0,train", "b,0,1,val", "c,1,2,test"), "'split'", "split1"),
}


@pytest.mark.parametrize("table, words", [(table, words) for table, *words in REJECTED.values()], ids=REJECTED)
def test_ambiguous_or_invalid_tables_are_rejected(read, tmp_path, table, words):
    with pytest.raises(divita.UserError) as error:
        read(table)
    line = divita.one_line(error.value)
    assert line.startswith(str(tmp_path / "mine.csv")) and all(word in line for word in words), line


@st.composite
def damaged_tables(draw):
    """Return one of the tables above with a few random changes."""
    tables = [*READ.values(), *(table for table, *_ in REJECTED.values())]
    table = draw(st.sampled_from(tables))
    content = bytearray(table if isinstance(table, bytes) else table.encode())
    insertions = st.sampled_from(
        ['"', "'", ",", ";", "\t", "\n", "[", "]", "{", "|", "0", "1", "nan", "mid", "genres", " ", "/"]
    )
    changes = st.tuples(st.integers(0, 60), st.integers(0, 9), insertions)
    for place, size, text in draw(st.lists(changes, max_size=4)):
        content[place : place + size] = text.encode()
    return bytes(content)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damaged_tables())
def test_any_table_is_rejected_or_written_unchanged(read, tmp_path, content):
    try:
        labels, _ = read(content)
    except divita.UserError as error:
        assert "\n" not in divita.one_line(error)
    else:
        divita.write_csv(tmp_path / "labels.csv", *prepare.labels_table(labels))
        assert prepare.labels_table(divita.read_labels(tmp_path / "labels.csv")) == prepare.labels_table(labels)


def test_mids_stay_text(read):
    mids = ["007", "0012", "1e3", "tt1.5", "NA", "Vol. 2 x"]
    labels, _ = read(lines("id,genre", *(f"{mid},War" for mid in mids)))
    assert labels.mids == mids


def test_words_for_subsets(read):
    words = ["Train", "training", "val", "valid", "VALIDATION", "validate", "dev", "test"]
    for name in ("split", "usage", "split0"):
        labels, remarks = read(lines(f"mid,{name},War", *(f"t{i},{word},1" for i, word in enumerate(words))))
        assert labels.splits.T.tolist() == [[0, 0, 1, 1, 1, 1, 1, 2]] and len(remarks) == 1


def test_splits_as_floats_and_before_the_genres(read):
    labels, _ = read(lines("split0,mid,War", "0.0,a,1.0", "1.0,b,0.0", "2.0,c,1.0"))
    assert labels.splits.tolist() == [[0], [1], [2]] and labels.y.tolist() == [[1], [0], [1]]


def test_random_splits_of_few_trailers_give_a_warning(read):
    for count in (29, 30):
        _, remarks = read(lines("mid,War", *(f"t{i},{i % 2}" for i in range(count))))
        assert [remark for remark in remarks if "random splits of 29 trailers" in remark] == remarks[1 : 31 - count]


def test_a_genre_without_trailers_is_kept(read):
    labels, remarks = read(FLAGS.replace(",1\n", ",0\n"))
    assert labels.genres == ["Drama", "War"] and labels.y[:, 1].sum() == 0 and "Drama 2, War 0" in remarks[0]


def test_hundreds_of_genres_are_abbreviated(read):
    header = ",".join(["mid", *(f"g{i}" for i in range(300))])
    labels, remarks = read(lines(header, *(f"t{i}" + 150 * ",0,1" for i in range(3))))
    assert labels.y.shape == (3, 300) and len(remarks[0]) < 400


def run_prepare(script, folder, table, *names):
    """Prepare videos with these file names and a genre table."""
    (folder / "mine.csv").write_text(table, encoding="utf-8")
    (folder / "videos").mkdir(exist_ok=True)
    for name in names:
        write_video(folder / "videos" / name, [30])
    options = ["--videos", folder / "videos", "--labels", folder / "mine.csv", "--out", folder / "out"]
    return script("01_prepare.py", *options, *TINY)


def test_a_table_is_written_to_labels_csv_with_remarks_on_every_run(script, tmp_path):
    rows = ["name,year,Genre,", "v/a.mp4,1999,War,", "b,2000,N/A,", "c,2001,Drama,", "d,2002,\"['War', 'Drama']\","]
    result = run_prepare(script, tmp_path, lines(*rows), "a.mp4", "d.mp4")
    assert result.code == 0 and not result.err.count("error"), result.err
    remarks = result.out.splitlines()[:4]
    assert remarks[0] == f"{tmp_path}/mine.csv: 3 trailers (mid: name), genres: Drama 2, War 2"
    assert remarks[1:3] == ["unused columns: year", "skipped 1 trailers without a known genre: b"]
    assert remarks[3].startswith("warning: random splits of 3 trailers") and "warning: no video in" in result.out
    labels = divita.load_labels(tmp_path / "out")
    assert labels.mids == ["a", "c", "d"] and labels.y.tolist() == [[0, 1], [1, 0], [1, 1]]
    assert (tmp_path / "out" / "labels.csv").read_text().startswith("mid,Drama,War,split0,split1,split2\na,0,1,")
    second = run_prepare(script, tmp_path, lines(*rows))
    assert second.code == 0 and second.out.splitlines()[:4] == remarks


@pytest.mark.parametrize(
    "mid, name, difference",
    [("TT1", "tt1", "case"), ("a.xyz", "a", "a suffix"), ("7.0", "7", "a suffix"), ("7", "007", "leading zeros")]
    + [("0012", "tt0012", "tt"), ("the film", "The_Film", "signs"), ("x", "y", "more than case and suffix")],
)
def test_mids_without_any_video_are_an_error(script, tmp_path, mid, name, difference):
    result = run_prepare(script, tmp_path, lines("mid,War", f"{mid},1", "2,0", "3,1"), f"{name}.mp4")
    assert result.code == 2 and result.err.count("\n") == 1 and difference in result.err, result.err
    assert mid in result.err and name in result.err and not any((tmp_path / "out").iterdir())


def test_an_invalid_table_is_rejected_before_files_are_written(script, tmp_path):
    result = run_prepare(script, tmp_path, lines("mid,War,subset", "a,1,0", "b,0,1", "c,1,2"), "a.mp4")
    assert result.code == 2 and result.err.count("\n") == 1 and "'subset'" in result.err
    assert not any((tmp_path / "out").iterdir())
