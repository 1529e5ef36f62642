"""Lists of classes as people write them."""

import pytest

from deeplab_jax.data.builders import class_lists
from deeplab_jax.data.builders.faults import BadExample
from deeplab_jax.data.builders.trees import File, Tree

# (what is in the list, what it gives: names, or what is wrong).
_LISTS = {
  "txt": [
    (b"\xef\xbb\xbfa\r\nb\r\n\r\n", ("a", "b")),
    ("a\r\nb\r\n".encode("utf-16"), ("a", "b")),
    (b"\"a\"\n'b'\n", ("a", "b")),
    (b"a,\nb,\n", ("a", "b")),
    (b"0: a\n1: b\n", ("a", "b")),
    (b'0 a b\n1 "c",\n', ("a b", "c")),
    (b"2 a\nb\n", ("2 a", "b")),
    (b"0\n1\n", ("0", "1")),
    ("a\u2028b\nc\x0bd\n".encode(), ("a\u2028b", "c\x0bd")),
    (b"1 a\n2 b\n", r"numbers of classes must be .* from 0 on, got 1, 2"),
    (b"1\n0\n", r"numbers of classes must be .* from 0 on, got 1, 0"),
    (b"# classes\na\nb\n", r"must have a class name a line, got '# classes'"),
    ("\u00e4\na\u0308\n".encode(), "a name of its own, got \u00e4 twice"),
    (b"a\0\nb\0\n", r"must be UTF-8 text \(it has zero bytes"),
    (b"stra\xdfe\n", r"must be UTF-8 text"),
  ],
  "yaml": [
    (b"\xef\xbb\xbfclasses: [a, b]\r\n", ("a", "b")),
    ("classes: [a, b]".encode("utf-16"), ("a", "b")),
    (
      b"classes: [no, off, 010, 1.0, 2020-01-01, .inf]",
      ("no", "off", "010", "1.0", "2020-01-01", ".inf"),
    ),
    (b"classes: [0, 1]", ("0", "1")),
    (b"classes: {a: , b: null}", ("a", "b")),
    (b"classes: [1, 0]", r"numbers of classes must be .* from 0 on, got 1, 0"),
    (b"classes: {0: a, 1: b}", ("a", "b")),
    (b"classes: {'1': b, 0: a, 2: '7'}", ("a", "b", "7")),
    (b"classes: {b: 1, a: 0}", ("a", "b")),
    (b"classes: {b: '1', a: 0}", ("a", "b")),
    (
      b"classes: {%s}" % b", ".join(b"%d: c%d" % (i, i) for i in range(12)),
      tuple(f"c{i}" for i in range(12)),
    ),
    (b"classes: {1: a, 2: b}", r"numbers of classes must be .* got 1, 2"),
    (b"classes: {0: a, 2: b}", r"numbers of classes must be .* got 0, 2"),
    (b"classes: {a: 0, b: 255}", r"the colour of a must be \[r, g, b\]"),
    (b"classes: {0: a, x: b}", r"the colour of 0 must be .* in the order of"),
    (b"classes: {a: [[0, 0, 0], [1, 1, 1]], b: [2, 2, 2]}", ("a", "b")),
    (
      b"classes: {a: [[0, 0, 0], [1, 1, 1]], b: [1, 1, 1]}",
      "each colour must be used once, got b's twice",
    ),
    (b"classes: {a: []}", r"the colour of a must be \[r, g, b\]"),
    (b"classes: {a: [[0, 0, 0], 1]}", r"the colour of a must be \[r, g, b\]"),
    (b"classes: {a: '#ff0000'}", r"the colour of a must be \[r, g, b\]"),
    (b"classes: {a: [true, 0, 0]}", r"the colour of a must be \[r, g, b\]"),
    (b"classes: {a: [1.0, 0, 0]}", r"the colour of a must be \[r, g, b\]"),
    (b"classes: [a, ' a']", "a name of its own, got a twice"),
    (b"classes: ['', a]", "must have a class name a line, got none"),
    (b"classes: [a, null]", r"must have classes, a list of names"),
    (b"classes: [a]\nignore_label: true", r"0\.\.255 or null, got 'true'"),
    (b"classes: [a]\nignore_label: 2.0", r"0\.\.255 or null, got '2\.0'"),
    (b"classes: [a]\nignore_label: '2'", r"0\.\.255 or null, got '2'"),
    (b"classes: [a]\nignore_label: -1", r"0\.\.255 or null, got -1"),
    (b"classes:\n\t- a", r"must be YAML \(while scanning"),
    (b"classes: [a]\n---\nclasses: [b]", r"must be YAML \(expected a single"),
    (b"classes: !!python/name:os.system", r"must be YAML \(could not determ"),
  ],
}


@pytest.mark.parametrize("kind", _LISTS)
def test_a_list_of_classes_is_read_as_it_is_written_or_refused(kind):
  for content, expected in _LISTS[kind]:
    name = f"classes.{kind}"
    tree = Tree("mine", {name: File(f"mine/{name}", lambda c=content: c)})
    if isinstance(expected, tuple):
      assert class_lists.read(tree).names == expected, content
      continue
    with pytest.raises(BadExample, match=f"mine/{name}: .*{expected}") as fault:
      class_lists.read(tree)
    assert "\n" not in str(fault.value), content
