//! Each page in `docs/verify` must quote its example service exactly, and the examples must be
//! short.

use crate::support::root;

/// The pages, and the example service that each of them quotes.
const EXAMPLES: [(&str, &str); 5] = [
    ("docs/verify/python.md", "sdk/python/examples/orders.py"),
    ("docs/verify/go.md", "sdk/go/examples/orders/main.go"),
    ("docs/verify/node.md", "sdk/node/examples/orders.ts"),
    (
        "docs/verify/java.md",
        "sdk/java/spring-boot-starter/src/test/java/io/github/countersign/example/Orders.java",
    ),
    ("docs/verify/rust.md", "crates/verify/examples/axum.rs"),
];

/// The maximum number of lines of code of an example.
const MAX_LINES: usize = 12;

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// Returns the path and the content of each quote. A quote is a fenced block after a line with
/// `<!-- PATH -->`.
fn quotes(page: &str) -> Vec<(String, String)> {
    let mut quotes = Vec::new();
    for rest in page.split("\n<!-- ").skip(1) {
        let (path, rest) = rest.split_once(" -->\n```").unwrap();
        let (_, rest) = rest.split_once('\n').unwrap();
        let (content, _) = rest.split_once("\n```\n").unwrap();
        quotes.push((path.to_owned(), format!("{content}\n")));
    }
    quotes
}

/// Counts lines of code, without imports, comments and lines with nothing but brackets.
fn lines_of_code(source: &str) -> usize {
    let mut in_imports = false;
    let mut lines = 0;
    for line in source.lines().map(str::trim) {
        if line == "import (" {
            in_imports = true;
        }
        let ignored = ["package ", "import ", "from ", "use ", "//", "# "];
        let is_code = line.bytes().any(|b| b.is_ascii_alphanumeric())
            && !ignored.iter().any(|start| line.starts_with(start));
        if is_code && !in_imports {
            lines += 1;
        }
        if line == ")" {
            in_imports = false;
        }
    }
    lines
}

#[test]
fn each_page_quotes_its_example() {
    for (page, example) in EXAMPLES {
        let expected = [(example.to_owned(), read(example))];
        assert_eq!(quotes(&read(page)), expected, "{page}");
    }
}

#[test]
fn the_examples_are_short() {
    for (_, example) in EXAMPLES {
        let lines = lines_of_code(&read(example));
        let is_short = (1..=MAX_LINES).contains(&lines);
        assert!(is_short, "{example}: {lines} lines");
    }
}
