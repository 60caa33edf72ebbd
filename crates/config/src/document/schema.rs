//! The sections and keys that a kind of file has. Reports sections and keys that are unknown,
//! missing or written in the wrong form.

use std::borrow::Cow;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::diagnostics::suggest::nearest;
use crate::diagnostics::{Diagnostic, Diagnostics, Span};
use crate::identity::text::printable;

/// The title of a section and its keys, each required or optional.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SectionKeys {
    pub(crate) title: &'static str,
    pub(crate) keys: &'static [(&'static str, Need)],
}

/// Whether the file must contain a key if it contains the key's section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Required,
    Optional,
}

/// All sections that one kind of file can have, for example a configuration file or
/// `profiles.toml`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Family {
    pub(crate) sections: &'static [SectionKeys],
    /// The path of the documentation page that describes the sections.
    pub(crate) document: &'static str,
}

/// Parses the text of a file as TOML. If there are syntax errors, reports them and returns `None`.
pub(crate) fn syntax<'i>(
    source: &'i str,
    diagnostics: &mut Diagnostics,
) -> Option<Spanned<DeTable<'i>>> {
    let (root, errors) = DeTable::parse_recoverable(source);
    if errors.is_empty() {
        return Some(root);
    }
    for error in errors {
        diagnostics.error(syntax_error(&error, source));
    }
    None
}

pub(crate) fn find<'t, 'i>(table: &'t DeTable<'i>, key: &str) -> Option<&'t Spanned<DeValue<'i>>> {
    table
        .iter()
        .find(|(name, _)| **name.get_ref() == *key)
        .map(|(_, value)| value)
}

/// Reports the keys of a section's table that are unknown, and required keys that are missing.
pub(crate) fn check_keys(
    section: &SectionKeys,
    family: &Family,
    table: &DeTable<'_>,
    place: &Span,
    diagnostics: &mut Diagnostics,
) {
    for key in table.keys() {
        let name: &str = key.get_ref();
        if !section.keys.iter().any(|(known, _)| *known == name) {
            diagnostics.error(unknown_key(name, key.span(), section, family));
        }
    }
    for (key, need) in section.keys {
        if *need == Need::Required && find(table, key).is_none() {
            diagnostics.error(
                Diagnostic::new(place.clone(), format!("{} has no `{key}`", section.title))
                    .label(format!("`{key}` is missing here"))
                    .help(format!("add `{key}`; {} describes it", family.document)),
            );
        }
    }
}

fn unknown_key(name: &str, place: Span, section: &SectionKeys, family: &Family) -> Diagnostic {
    let error = Diagnostic::new(
        place,
        format!("unknown key `{}` in {}", printable(name), section.title),
    )
    .label("unknown key");
    let known = || section.keys.iter().map(|(key, _)| *key);
    if let Some(key) = nearest(name, known()) {
        return error.help(format!("did you mean `{key}`?"));
    }
    let elsewhere = family
        .sections
        .iter()
        .find(|other| other.keys.iter().any(|(key, _)| *key == name));
    match elsewhere {
        Some(other) => error.help(format!("`{name}` is a key of {}", other.title)),
        None => error.help(format!(
            "{} knows: {}",
            section.title,
            known().collect::<Vec<_>>().join(", ")
        )),
    }
}

pub(crate) fn unknown_section(
    name: &str,
    place: Span,
    value: &DeValue<'_>,
    family: &Family,
) -> Diagnostic {
    let sections = family.sections;
    let bare = |section: &SectionKeys| section.title.trim_matches(['[', ']']);
    let shown = printable(name);
    if !matches!(value, DeValue::Table(_) | DeValue::Array(_)) {
        let error = Diagnostic::new(place, format!("unknown key `{shown}` outside any section"))
            .label("unknown key");
        let owner = sections
            .iter()
            .find(|section| section.keys.iter().any(|(key, _)| *key == name));
        return match owner {
            Some(section) => error.help(format!("`{name}` belongs below {}", section.title)),
            None => error.help("every key belongs below a section such as [listener]"),
        };
    }
    let error =
        Diagnostic::new(place, format!("unknown section `{shown}`")).label("unknown section");
    match nearest(name, sections.iter().map(bare)) {
        Some(near) => {
            let title = sections
                .iter()
                .find(|section| bare(section) == near)
                .map_or(near, |section| section.title);
            error.help(format!("did you mean {title}?"))
        }
        None => {
            let titles: Vec<_> = sections.iter().map(|section| section.title).collect();
            error.help(format!("the sections are {}", titles.join(", ")))
        }
    }
}

pub(super) fn only_table<'t, 'i>(
    section: &SectionKeys,
    key: &Spanned<Cow<'_, str>>,
    value: &'t Spanned<DeValue<'i>>,
    diagnostics: &mut Diagnostics,
) -> Option<&'t DeTable<'i>> {
    if let DeValue::Table(table) = value.get_ref() {
        return Some(table);
    }
    diagnostics.error(
        Diagnostic::new(
            key.span(),
            format!("{} must stand once, as a section", section.title),
        )
        .help(format!("write {} on a line of its own", section.title)),
    );
    None
}

pub(crate) fn tables<'t, 'i>(
    section: &SectionKeys,
    key: &Spanned<Cow<'_, str>>,
    value: &'t Spanned<DeValue<'i>>,
    diagnostics: &mut Diagnostics,
) -> Vec<(&'t DeTable<'i>, Span)> {
    let mut found = Vec::new();
    let mut refuse = |place: Span| {
        diagnostics.error(
            Diagnostic::new(
                place,
                format!("{} is written with two brackets", section.title),
            )
            .label("may stand several times")
            .help(format!("write {} on a line of its own", section.title)),
        );
    };
    match value.get_ref() {
        DeValue::Array(elements) => {
            for element in elements.iter() {
                match element.get_ref() {
                    DeValue::Table(table) => found.push((table, element.span())),
                    _ => refuse(element.span()),
                }
            }
        }
        _ => refuse(key.span()),
    }
    found
}

fn syntax_error(error: &toml::de::Error, source: &str) -> Diagnostic {
    let place = error.span().unwrap_or(source.len()..source.len());
    let help = if error.message().contains("duplicate key") {
        "a key stands once in its section, and a section with single brackets once in the file"
    } else {
        "this is not TOML; texts stand in double quotes, lists in brackets (https://toml.io)"
    };
    Diagnostic::new(place, format!("syntax: {}", error.message())).help(help)
}
