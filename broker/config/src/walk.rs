//! Compares a file with a schema and complains about every difference, in one pass.

use taskpass_core::excerpt;
use toml::{
    Spanned,
    de::{DeArray, DeInteger, DeTable, DeValue},
};

use crate::{
    Complaints,
    format::duration,
    nearest::nearest,
    schema::{Node, Others, Shape, Tagged},
    wording::{either, expects, kind, list, list_of, range},
};

/// A table with more keys is not listed in a message.
const KEYS_LISTED_MAX: usize = 12;

/// A table of the document.
#[derive(Debug)]
pub(crate) struct Table<'t> {
    /// As it is written: `[limits]`, `[[provider]]`; empty for the top level.
    pub(crate) name: String,
    /// Where it begins.
    pub(crate) offset: usize,
    pub(crate) entries: &'t DeTable<'t>,
}

impl<'t> Table<'t> {
    pub(crate) const fn new(name: String, offset: usize, entries: &'t DeTable<'t>) -> Self {
        Self {
            name,
            offset,
            entries,
        }
    }

    /// ` in [limits]`, or nothing at the top level.
    fn suffix(&self) -> String {
        match self.name.as_str() {
            "" => String::new(),
            name => format!(" in {name}"),
        }
    }

    /// The name of a table below this one, without brackets.
    fn path(&self, key: &str) -> String {
        match self.name.trim_matches(['[', ']']) {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        }
    }
}

/// Walks through a document and its schema side by side.
#[derive(Debug)]
pub(crate) struct Walker<'w, 's, 't> {
    complaints: &'w mut Complaints<'t>,
    /// Every key with the table it belongs to, for a key that stands in the wrong one.
    homes: Vec<(&'s str, &'s str)>,
}

impl<'w, 's, 't> Walker<'w, 's, 't> {
    pub(crate) fn new(root: Node<'s>, complaints: &'w mut Complaints<'t>) -> Self {
        let mut homes = Vec::new();
        for (name, node) in root.properties() {
            let node = node.resolved();
            match node.shape() {
                Shape::Table => homes.extend(node.properties().iter().map(|(key, _)| (*key, name))),
                Shape::List(_) | Shape::Tagged(_) => {}
                _ => homes.push((name, "")),
            }
        }
        Self { complaints, homes }
    }

    /// Checks one table and everything below it.
    pub(crate) fn table(&mut self, table: &Table<'_>, node: Node<'s>) {
        let node = node.resolved();
        match node.shape() {
            Shape::Tagged(tagged) => return self.tagged(table, &tagged),
            Shape::Table => {}
            _ => return,
        }
        let properties = node.properties();
        let names: Vec<&str> = properties.iter().map(|(name, _)| *name).collect();
        // Unknown keys first: when there are more mistakes than are noted, they tell most.
        match node.others() {
            Others::Refused => self.unknown_keys(table, &names),
            Others::Each(each) => {
                let others = table
                    .entries
                    .iter()
                    .filter(|(key, _)| !names.contains(&key.get_ref().as_ref()));
                for (key, found) in others {
                    self.value(table, key.get_ref(), found, each);
                }
            }
        }
        let required = node.required();
        for (name, property) in &properties {
            match table.entries.get(*name) {
                Some(found) => self.value(table, name, found, *property),
                None if required.contains(name) => self.missing(table, name, *property),
                None => {}
            }
        }
    }

    /// Checks a table in which the key `tag` says which other keys there are. If the tag is missing
    /// or wrong, only the keys that every variant requires are checked.
    fn tagged(&mut self, table: &Table<'_>, tagged: &Tagged<'s>) {
        let words = tagged.words();
        let found = table.entries.get(tagged.tag);
        let word = found.and_then(|found| found.get_ref().as_str());
        if let Some(variant) = word.and_then(|word| tagged.variant(word)) {
            return self.table(table, variant);
        }
        match found {
            Some(found) => self.choice(table, tagged.tag, found, &words),
            None => {
                let message = format!(
                    "missing key `{}`{}: give {}",
                    tagged.tag,
                    table.suffix(),
                    either(&words)
                );
                self.complaints.add(table.offset, message);
            }
        }
        let Some(((_, first), others)) = tagged.variants.split_first() else {
            return;
        };
        for name in first.required() {
            let everywhere = others
                .iter()
                .all(|(_, node)| node.required().contains(&name));
            if everywhere
                && name != tagged.tag
                && !table.entries.contains_key(name)
                && let Some(property) = first.property(name)
            {
                self.missing(table, name, property);
            }
        }
    }

    fn missing(&mut self, table: &Table<'_>, key: &str, node: Node<'s>) {
        let message = format!(
            "missing key `{key}`{}: give {}",
            table.suffix(),
            expects(node)
        );
        self.complaints.add(table.offset, message);
    }

    fn unknown_keys(&mut self, table: &Table<'_>, known: &[&'s str]) {
        let keys = table.entries.keys();
        let mut unknown: Vec<_> = keys
            .filter(|key| !known.contains(&key.get_ref().as_ref()))
            .collect();
        // As they stand in the file, since not all may be noted.
        unknown.sort_by_key(|key| key.span().start);
        for key in unknown {
            if self.complaints.is_full() {
                break;
            }
            let name = key.get_ref().as_ref();
            let place = match table.name.as_str() {
                "" => " at the top level".to_owned(),
                _ => table.suffix(),
            };
            let advice = self.advice(name, &table.name, known);
            let message = format!("unknown key `{}`{place}; {advice}", excerpt(name));
            self.complaints.add(key.span().start, message);
        }
    }

    fn advice(&self, name: &str, table: &str, known: &[&'s str]) -> String {
        if let Some(meant) = nearest(name, known.iter().copied()) {
            return format!("did you mean `{meant}`?");
        }
        let homes: Vec<_> = self
            .homes
            .iter()
            .filter(|(_, home)| format!("[{home}]") != table)
            .collect();
        let elsewhere = homes.iter().find(|(key, _)| *key == name).or_else(|| {
            let meant = nearest(name, homes.iter().map(|(key, _)| *key))?;
            homes.iter().find(|(key, _)| *key == meant)
        });
        match elsewhere {
            Some((key, "")) => format!("did you mean `{key}` at the top level?"),
            Some((key, home)) => format!("did you mean `{key}` in [{home}]?"),
            None if known.len() > KEYS_LISTED_MAX => {
                "`taskpassd config reference` lists the keys".to_owned()
            }
            None => format!("known keys are {}", list(known)),
        }
    }

    /// Checks the value of a key.
    fn value(
        &mut self,
        table: &Table<'_>,
        key: &str,
        found: &Spanned<DeValue<'_>>,
        node: Node<'s>,
    ) {
        let node = node.resolved();
        match (node.shape(), found.get_ref()) {
            (Shape::Any, _) | (Shape::Boolean, DeValue::Boolean(_)) => {}
            (Shape::Number, DeValue::Integer(_) | DeValue::Float(_)) => {}
            (Shape::Table | Shape::Tagged(_), DeValue::Table(entries)) => {
                let name = format!("[{}]", table.path(key));
                self.table(&Table::new(name, found.span().start, entries), node);
            }
            (Shape::Table | Shape::Tagged(_), other) => {
                let (kind, path) = (kind(other), table.path(key));
                let wrong = format!("is a table, not {kind}: write [{path}]");
                self.wrong(table, key, found, Err(wrong));
            }
            (Shape::List(item), _) => self.list(table, key, found, item),
            (Shape::Choice(choices), _) => {
                let words: Vec<&str> = choices.iter().map(|choice| choice.word).collect();
                self.choice(table, key, found, &words);
            }
            (Shape::Text, DeValue::String(text)) => {
                let checked = check_text(node, text);
                self.wrong(table, key, found, checked);
            }
            (Shape::Integer, DeValue::Integer(number)) => {
                let checked = check_number(node, number.as_str(), integer(number));
                self.wrong(table, key, found, checked);
            }
            (_, other) => {
                let wrong = format!("takes {}, not {}", expects(node), kind(other));
                self.wrong(table, key, found, Err(wrong));
            }
        }
    }

    /// Complains, if `checked` does. The message goes behind the name of the key.
    fn wrong(
        &mut self,
        table: &Table<'_>,
        key: &str,
        found: &Spanned<DeValue<'_>>,
        checked: Result<(), String>,
    ) {
        if let Err(message) = checked {
            let suffix = table.suffix();
            self.complaints
                .add(found.span().start, format!("`{key}`{suffix} {message}"));
        }
    }

    fn choice(
        &mut self,
        table: &Table<'_>,
        key: &str,
        found: &Spanned<DeValue<'_>>,
        words: &[&str],
    ) {
        let checked = match found.get_ref().as_str() {
            Some(word) if words.contains(&word) => Ok(()),
            Some(word) => Err(match nearest(word, words.iter().copied()) {
                Some(meant) => format!("is `{}`; did you mean `{meant}`?", excerpt(word)),
                None => format!("is `{}`: write {}", excerpt(word), either(words)),
            }),
            None => Err(format!(
                "takes {}, not {}",
                either(words),
                kind(found.get_ref())
            )),
        };
        self.wrong(table, key, found, checked);
    }

    fn list(&mut self, table: &Table<'_>, key: &str, found: &Spanned<DeValue<'_>>, item: Node<'s>) {
        let item = item.resolved();
        let has_tables = matches!(item.shape(), Shape::Table | Shape::Tagged(_));
        let name = format!("[[{}]]", table.path(key));
        let wrong = match found.get_ref() {
            DeValue::Array(items) if has_tables => return self.tables(&name, items, item),
            DeValue::Array(items) => {
                return items
                    .iter()
                    .for_each(|entry| self.value(table, key, entry, item));
            }
            DeValue::Table(_) if has_tables => {
                format!("is a list of tables: write {name}, with two brackets")
            }
            other if has_tables => {
                format!("is a list of tables, not {}: write {name}", kind(other))
            }
            other => format!("takes {}, not {}", list_of(item), kind(other)),
        };
        self.wrong(table, key, found, Err(wrong));
    }

    fn tables(&mut self, name: &str, items: &DeArray<'_>, node: Node<'s>) {
        for item in items.iter() {
            let offset = item.span().start;
            match item.get_ref() {
                DeValue::Table(entries) => {
                    self.table(&Table::new(name.to_owned(), offset, entries), node);
                }
                other => self.complaints.add(
                    offset,
                    format!("an entry of {name} is a table, not {}", kind(other)),
                ),
            }
        }
    }
}

fn check_text(node: Node<'_>, text: &str) -> Result<(), String> {
    let Some(format) = node.format() else {
        return Ok(());
    };
    (format.check)(text)?;
    let bound = |keyword| {
        let bound = node.keyword(keyword)?.as_str()?;
        Some((format!("{bound:?}"), duration(bound).ok()?))
    };
    let (from, to) = (bound("formatMinimum"), bound("formatMaximum"));
    match duration(text) {
        Ok(length)
            if from.as_ref().is_some_and(|(_, from)| length < *from)
                || to.as_ref().is_some_and(|(_, to)| length > *to) =>
        {
            let range = range(from.map(|(text, _)| text), to.map(|(text, _)| text));
            Err(format!("is `{}`: it must be {range}", excerpt(text)))
        }
        _ => Ok(()),
    }
}

/// The number, if it is not absurdly large.
pub(crate) fn integer(number: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(number.as_str(), number.radix()).ok()
}

fn check_number(node: Node<'_>, text: &str, number: Option<i128>) -> Result<(), String> {
    if let Some(format) = node.format() {
        (format.check)(text)?;
    }
    let bound = |keyword| {
        let bound = node.keyword(keyword)?;
        bound
            .as_u64()
            .map(i128::from)
            .or_else(|| bound.as_i64().map(i128::from))
    };
    let (from, to) = (bound("minimum"), bound("maximum"));
    let fits = number.is_some_and(|number| {
        from.is_none_or(|from| number >= from)
            && to.is_none_or(|to| number <= to)
            && (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&number)
    });
    if fits {
        return Ok(());
    }
    let shown = number.map_or_else(|| excerpt(text), |number| number.to_string());
    let range = range(from.map(|n| n.to_string()), to.map(|n| n.to_string()));
    Err(format!("is {shown}: it must be {range}"))
}
