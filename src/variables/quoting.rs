//! Values as words of a POSIX shell.

/// One word of a POSIX shell that means this text, whatever is in it; a NUL, which no shell can hold, is left out.
#[must_use]
pub fn quote(text: &str) -> String {
    let text = text.replace('\0', "");
    // Nothing is special between single quotes but their end.
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The line that exports a variable; none if the name is not one that a shell takes.
#[must_use]
pub fn export(name: &str, value: &str) -> Option<String> {
    let mut letters = name.bytes();
    let first = letters.next().is_some_and(|byte| byte == b'_' || byte.is_ascii_alphabetic());
    let fits = first && letters.all(|byte| byte == b'_' || byte.is_ascii_alphanumeric());
    fits.then(|| format!("export {name}={}\n", quote(value)))
}
