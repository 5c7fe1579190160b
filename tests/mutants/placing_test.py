"""Tests of `placing` and of the format of a mutant. `mutants.py --check` runs them."""

import textwrap
import unittest

import mutants
import placing

GATE = """
use std::{collections::BTreeMap, fmt};

/// Requests at once.
const MOST: usize = 8; // not 9

#[derive(Clone)]
pub(crate) struct Gate<'a, T: Clone> {
    open: BTreeMap<&'a str, T>,
}

impl<'a, T: Clone> Gate<'a, T> {
    /// Lets `fn enter` in a comment alone, and "fn enter() {" in a string.
    pub(crate) fn enter(&self, name: &str) -> Result<[u8; 2], String> {
        let shown = '"';
        let text = "fn enter() { first(); }";
        if self.open.contains_key(name) {
            // Said before.
            return Err(format!("`{name}` is in", ));
        }
        check(
            name,
            text,
        )
    }
}

impl<T: Clone> fmt::Debug for Gate<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

impl<T: Clone> fmt::Display for Gate<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

#[must_use]
fn check(name: &str, text: &str) -> Result<[u8; 2], String> {
    first();
    second();
    first();
    Ok([0, 1])
}
"""
OTHER = "impl Other {\n    fn enter(&self) {\n        leave();\n    }\n}\n"
FILES = {
    "a/src/gate.rs": GATE,
    "a/src/deep/other.rs": OTHER,
    "b/src/lib.rs": "fn moved() {\n    far();\n}\n",
    "a/Cargo.toml": 'edition = "2024" # 2021\n[profile]\nlto = true\n',
}


def tree():
    return placing.Tree("/nowhere", FILES, FILES)


def change(where, find, put=""):
    return mutants.read_changes("\n".join([f"In: {where}", *marked("-", find), *marked("+", put)]))[0]


def marked(mark, text):
    return [f"{mark} {line}" for line in text.splitlines()]


def applied(where, find, put=""):
    return placing.apply(change(where, find, put), tree())


class Placing(unittest.TestCase):
    def assert_changed(self, where, find, put, file, before, after):
        self.assertEqual(applied(where, find, put), (file, FILES[file].replace(before, after)))

    def assert_misfit(self, where, find, *said):
        with self.assertRaises(placing.DoesNotFit) as caught:
            applied(where, find)
        for words in said:
            self.assertIn(words, str(caught.exception))

    def test_a_method_is_found_anywhere_below_the_directory(self):
        self.assert_changed("a fn Other::enter", "leave();", "stay();", "a/src/deep/other.rs", "leave", "stay")
        self.assert_changed("a/src fn Gate::enter", "'\"'", "'!'", "a/src/gate.rs", "'\"'", "'!'")

    def test_line_breaks_comments_and_trailing_commas_do_not_count(self):
        found = "if self.open.contains_key(name) { return Err(format!(\"`{name}` is in\")); }"
        _, text = applied("a fn Gate::enter", found)
        self.assertNotIn("Said before", text)
        self.assert_changed(
            "a fn Gate::enter", "check(name, text)", "Ok([9, 9])", "a/src/gate.rs",
            "check(\n            name,\n            text,\n        )", "Ok([9, 9])",
        )

    def test_a_comma_at_the_end_of_the_lines_is_replaced_where_there_is_one(self):
        self.assert_changed("a fn Gate::enter", "text,", "more,", "a/src/gate.rs", "text,\n", "more,\n")
        self.assert_changed("a fn check", "1,", "2", "a/src/gate.rs", "[0, 1]", "[0, 2]")

    def test_lines_put_in_take_the_indentation_of_those_they_replace(self):
        put = "if odd() {\n    stay();\n}"
        indented = textwrap.indent(put, " " * 8).strip()
        self.assert_changed("a fn Other::enter", "leave();", put, "a/src/deep/other.rs", "leave();", indented)

    def test_items_outside_of_functions(self):
        self.assert_changed("a const MOST", "= 8;", "= 1 << 20;", "a/src/gate.rs", "= 8;", "= 1 << 20;")
        self.assert_changed("a struct Gate", "Clone)", "Debug)", "a/src/gate.rs", "(Clone)]", "(Debug)]")
        self.assert_changed("a fn check", "#[must_use]", "", "a/src/gate.rs", "#[must_use]", "")
        self.assert_changed("a use std", "fmt}", "fmt, io}", "a/src/gate.rs", "fmt}", "fmt, io}")
        _, text = applied("a impl Debug for Gate", "f.write_str", "f.pad")
        self.assertLess(text.index("f.pad"), text.index("f.write_str"))
        self.assert_changed("a/Cargo.toml file", "lto = true", "lto = 1", "a/Cargo.toml", "lto = true", "lto = 1")

    def test_a_trait_tells_methods_of_one_type_apart(self):
        both = ("<Gate as Debug>::fmt", "<Gate as Display>::fmt")
        self.assert_misfit("a fn Gate::fmt", '"Gate"', "found 2 times", *both)
        _, text = applied("a fn <Gate as Display>::fmt", '"Gate"', '"?"')
        self.assertLess(text.index('"Gate"'), text.index('"?"'))

    def test_an_item_that_is_not_there(self):
        self.assert_misfit("a fn moved", "far();", "no such item", "with these lines", "`fn moved` at b/src/lib.rs:1")
        self.assert_misfit("a fn chek", "first();\nthird();", "no such item", "`fn check` at a/src/gate.rs:")

    def test_an_item_that_is_there_more_than_once(self):
        self.assert_misfit("a fn enter", "leave();", "found 2 times", "a/src/gate.rs:14", "a/src/deep/other.rs:2")

    def test_lines_that_are_not_there(self):
        self.assert_misfit("a fn check", "secnd();", "the lines are not in it", "a/src/gate.rs:43", "second();")
        self.assert_misfit("a fn check", "leave();", "the lines are not in it", "`fn Other::enter` at a/src/deep/")

    def test_lines_that_are_there_more_than_once(self):
        self.assert_misfit("a fn check", "first();", "found 2 times", "lines 42, 44")

    def test_several_changes_below_one_place(self):
        body = "In: a fn check\n- second();\n+ third();\n- Ok([0, 1])\n+ Ok([1, 0])\n\n- third();\n"
        texts = dict(FILES)
        for one in mutants.read_changes(body):
            file, text = placing.apply(one, placing.Tree("/nowhere", FILES, texts))
            texts[file] = text
        self.assertIn("first();\n    \n    first();\n    Ok([1, 0])", texts["a/src/gate.rs"])

    def test_text_that_is_no_change_is_refused(self):
        without_a_place, without_lines = "- x\n+ y\n", "In: a fn b\n+ y\n"
        of_no_kind, without_a_name, unmarked = "In: a fun b\n- x\n", "In: a fn\n- x\n", "In: a fn b\nx\n"
        for body in ["", without_a_place, without_lines, of_no_kind, without_a_name, unmarked]:
            with self.assertRaises(ValueError, msg=body):
                mutants.read_changes(body)


if __name__ == "__main__":
    unittest.main()
