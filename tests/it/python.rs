//! The table for people who come from Python names tests that exist.

use std::fs;
use std::path::Path;

#[test]
fn every_row_of_the_inventory_has_a_test() {
    let table = include_str!("../../src/manual/coming_from_python.md");
    let rows: Vec<&str> =
        table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Python")).collect();
    assert!(rows.len() >= 34, "{} rows", rows.len());
    for row in rows {
        let shown_by = row.rsplit('|').nth(1).unwrap();
        let mut quoted = shown_by.split('`').skip(1).step_by(2);
        let (file, test) = (quoted.next().unwrap(), quoted.next().unwrap());
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect(file);
        let (before, _) = text.split_once(&format!("fn {test}(")).unwrap_or_else(|| panic!("no {test} in {file}"));
        let attributes = before.rsplit("\n\n").next().unwrap();
        assert!(attributes.contains("#[test]"), "{test} in {file} is no test");
    }
}
