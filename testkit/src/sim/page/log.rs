//! A log as HTML, as GitLab shows it: colours, sections that fold, and lines that overwrite themselves.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::escape;

/// How many sections may be open at once. More would only make the page slow.
const DEPTH: usize = 64;

/// The longest marker of a section that is looked at. Nothing longer is one, so that no part of a log is searched twice.
const MARKER: usize = 1000;
/// The longest command to the terminal that is looked at.
const COMMAND: usize = 4096;
const MARKER_END: &str = "\r\x1b[0K";

/// The log as HTML. All text of the log is escaped.
pub(super) fn render(log: &str) -> String {
    let mut page = Page::default();
    let mut rest = log;
    while !rest.is_empty() {
        rest = page.next(rest);
    }
    page.finish()
}

/// What follows a command to the terminal, such as the address of a link or a title of the window. GitLab shows it in part. Nobody
/// wants to read it, and a link could lead anywhere.
fn after_command(log: &str) -> &str {
    let end = log.bytes().take(COMMAND).position(|byte| matches!(byte, b'\x07' | b'\x1b' | b'\n'));
    let rest = end.map_or(log, |end| &log[end..]);
    rest.strip_prefix('\x07').or_else(|| rest.strip_prefix("\x1b\\")).unwrap_or(rest)
}

/// How text looks.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Style {
    bold: bool,
    italic: bool,
    underline: bool,
    crossed: bool,
    hidden: bool,
    front: Option<Colour>,
    back: Option<Colour>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Colour {
    /// One of the 256 of a terminal, of which the first 16 are those of its theme.
    Number(u8),
    Rgb(u8, u8, u8),
}

/// A section that is open.
struct Section {
    name: String,
    started: u64,
    /// Where on the page its duration belongs.
    duration_at: usize,
}

#[derive(Default)]
struct Page {
    out: String,
    style: Style,
    /// The current line: GitLab clears it at a carriage return.
    line: String,
    /// The style of the text at the end of the current line.
    written: Style,
    open: Vec<Section>,
    /// Where durations belong, and how many seconds each is.
    durations: BTreeMap<usize, u64>,
    /// The current line is the title of the section that was opened last.
    in_title: bool,
}

impl Page {
    /// Takes what comes first: a control character with what belongs to it, or the text before the next one.
    fn next<'a>(&mut self, log: &'a str) -> &'a str {
        if let Some(codes) = log.strip_prefix("\x1b[") {
            return self.control_sequence(codes);
        }
        if let Some(rest) = log.strip_prefix("\r\n").or_else(|| log.strip_prefix('\n')) {
            self.end_line();
            return rest;
        }
        if let Some(rest) = log.strip_prefix('\r') {
            self.clear_line();
            return rest;
        }
        if let Some(rest) = log.strip_prefix("\x1b]") {
            return after_command(rest);
        }
        if let Some(rest) = log.strip_prefix('\x1b') {
            return rest;
        }
        if let Some(rest) = log.strip_prefix("section_").and_then(|marker| self.section(marker)) {
            return rest;
        }
        // A marker may follow text on its line. The first letter is no marker, or it would have been taken above.
        let bytes = log.as_bytes();
        let is_end =
            |at: &usize| matches!(bytes[*at], b'\x1b' | b'\r' | b'\n') || bytes[*at..].starts_with(b"section_");
        let (text, rest) = log.split_at((1..bytes.len()).find(is_end).unwrap_or(bytes.len()));
        self.text(text);
        rest
    }

    fn text(&mut self, text: &str) {
        if self.written != self.style {
            self.close_style();
            self.open_style();
        }
        self.line.push_str(&escape(&text.replace(|c: char| c.is_control() && c != '\t', "")));
    }

    fn open_style(&mut self) {
        let Style { bold, italic, underline, crossed, hidden, front, back } = self.style;
        // Text without a colour of its own must be seen on a light background.
        let is_dark_on_light = front.is_none() && back.is_some_and(Colour::is_light);
        let flags =
            [(bold, "b"), (italic, "i"), (underline, "u"), (crossed, "x"), (hidden, "h"), (is_dark_on_light, "l")];
        let mut classes: Vec<String> = flags.into_iter().filter(|it| it.0).map(|it| it.1.to_owned()).collect();
        let mut rules = String::new();
        for (colour, class, rule) in [(front, "f", "color"), (back, "g", "background")] {
            match colour {
                Some(Colour::Number(number @ 0..16)) => classes.push(format!("{class}{number}")),
                Some(colour) => {
                    let (red, green, blue) = colour.rgb();
                    // Writing to a text does not fail.
                    _ = write!(rules, "{rule}:rgb({red},{green},{blue});");
                }
                None => {}
            }
        }
        if self.style != Style::default() {
            self.line.push_str("<span");
            if !classes.is_empty() {
                _ = write!(self.line, " class=\"{}\"", classes.join(" "));
            }
            if !rules.is_empty() {
                _ = write!(self.line, " style=\"{rules}\"");
            }
            self.line.push('>');
        }
        self.written = self.style;
    }

    fn close_style(&mut self) {
        if self.written != Style::default() {
            self.line.push_str("</span>");
        }
        self.written = Style::default();
    }

    fn clear_line(&mut self) {
        self.line.clear();
        self.written = Style::default();
    }

    /// Shows the current line.
    fn end_line(&mut self) {
        self.close_style();
        let line = std::mem::take(&mut self.line);
        self.out.push_str(&line);
        if std::mem::take(&mut self.in_title) {
            self.out.push_str("</summary>");
        } else {
            self.out.push('\n');
        }
    }

    /// Shows what stands on the current line, if anything does. The title of a section may be empty.
    fn end_line_if_begun(&mut self) {
        if self.in_title || !self.line.is_empty() {
            self.end_line();
        }
    }

    /// `start:<seconds>:<name>` or `end:...`, up to the control sequence at its end. Returns what follows; none if it is no marker.
    fn section<'a>(&mut self, log: &'a str) -> Option<&'a str> {
        // All that belongs to a marker is near.
        let near = (0..=MARKER.min(log.len())).rev().find(|at| log.is_char_boundary(*at))?;
        let end = log[..near].find(MARKER_END)?;
        let (marker, rest) = (&log[..end], &log[end + MARKER_END.len()..]);
        let (kind, marker) = marker.split_once(':')?;
        let (time, name) = marker.split_once(':')?;
        let time: u64 = time.parse().ok()?;
        let (name, options) = name.split_once('[').unwrap_or((name, ""));
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)) || options.contains('\n') {
            return None;
        }
        match kind {
            "start" if self.open.len() >= DEPTH => {}
            "start" => {
                self.end_line_if_begun();
                let open = if options.contains("collapsed=true") { "" } else { " open" };
                _ = write!(self.out, "<details{open} data-section=\"{name}\"><summary>");
                let duration_at = self.out.len();
                self.open.push(Section { name: name.to_owned(), started: time, duration_at });
                self.in_title = true;
            }
            "end" => {
                self.end_line_if_begun();
                let at = self.open.iter().rposition(|section| section.name == name);
                // GitLab ignores the end of a section that is not open. One that ends closes those within it.
                for section in self.open.drain(at.unwrap_or(self.open.len())..).rev() {
                    self.out.push_str("</details>");
                    self.durations.insert(section.duration_at, time.saturating_sub(section.started));
                }
            }
            _ => return None,
        }
        Some(rest)
    }

    /// Parameters and a final letter. `m` changes the style; GitLab ignores all others.
    fn control_sequence<'a>(&mut self, codes: &'a str) -> &'a str {
        let end = codes.find(|c: char| !(' '..='?').contains(&c)).unwrap_or(codes.len());
        let (parameters, rest) = codes.split_at(end);
        if let Some(rest) = rest.strip_prefix('m') {
            self.style.change(parameters);
            return rest;
        }
        rest.strip_prefix(|c| ('@'..='~').contains(&c)).unwrap_or(rest)
    }

    fn finish(mut self) -> String {
        if self.in_title || !self.line.is_empty() {
            self.close_style();
            self.out.push_str(&self.line);
        }
        if self.in_title {
            self.out.push_str("</summary>");
        }
        self.out.push_str(&"</details>".repeat(self.open.len()));
        let mut page = String::with_capacity(self.out.len());
        let mut copied = 0;
        for (at, seconds) in self.durations {
            page.push_str(&self.out[copied..at]);
            // Writing to a text does not fail.
            _ = write!(page, "<span class=\"duration\">{}</span>", took(seconds));
            copied = at;
        }
        page.push_str(&self.out[copied..]);
        page
    }
}

/// How long a section took, as GitLab writes it: with hours only if there are any, and a year at most.
fn took(seconds: u64) -> String {
    const YEAR: u64 = 365 * 24 * 3600 + 24 * 3600 / 4;
    let seconds = seconds.min(YEAR);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours:02}:{minutes:02}:{seconds:02}") } else { format!("{minutes:02}:{seconds:02}") }
}

impl Style {
    fn change(&mut self, parameters: &str) {
        let mut codes = parameters.split([';', ':']).map(|code| code.parse::<u8>().unwrap_or(0));
        while let Some(code) = codes.next() {
            match code {
                0 => *self = Self::default(),
                1 => self.bold = true,
                3 => self.italic = true,
                4 => self.underline = true,
                8 => self.hidden = true,
                9 => self.crossed = true,
                21 | 22 => self.bold = false,
                23 => self.italic = false,
                24 => self.underline = false,
                28 => self.hidden = false,
                29 => self.crossed = false,
                30..=37 => self.front = Some(Colour::Number(code - 30)),
                40..=47 => self.back = Some(Colour::Number(code - 40)),
                90..=97 => self.front = Some(Colour::Number(code - 90 + 8)),
                100..=107 => self.back = Some(Colour::Number(code - 100 + 8)),
                38 => self.front = Colour::long(&mut codes).or(self.front),
                48 => self.back = Colour::long(&mut codes).or(self.back),
                39 => self.front = None,
                49 => self.back = None,
                _ => {}
            }
        }
    }
}

impl Colour {
    /// What follows 38 or 48: `5;number`, or `2;red;green;blue`.
    fn long(codes: &mut impl Iterator<Item = u8>) -> Option<Self> {
        match codes.next()? {
            5 => codes.next().map(Self::Number),
            2 => Some(Self::Rgb(codes.next()?, codes.next()?, codes.next()?)),
            _ => None,
        }
    }

    /// Whether dark text is read on it better than light text. The first 16 are those of the style sheet, which says it for them.
    fn is_light(self) -> bool {
        let (red, green, blue) = self.rgb();
        let of_theme = matches!(self, Self::Number(0..16));
        !of_theme && 299 * u32::from(red) + 587 * u32::from(green) + 114 * u32::from(blue) > 128_000
    }

    /// The colours from 16 on are a cube with six steps a side, and after it 24 greys.
    fn rgb(self) -> (u8, u8, u8) {
        let step = |value: u8| if value == 0 { 0 } else { 55 + 40 * value };
        match self {
            Self::Rgb(red, green, blue) => (red, green, blue),
            Self::Number(number @ 232..) => {
                let grey = 8 + 10 * (number - 232);
                (grey, grey, grey)
            }
            Self::Number(number) => {
                let number = number.saturating_sub(16);
                (step(number / 36), step(number / 6 % 6), step(number % 6))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time_limit::TimeLimit;

    fn check(rows: &[(&str, &str)]) {
        for (log, html) in rows {
            assert_eq!(&render(log), html, "{log:?}");
        }
    }

    #[test]
    fn text_is_escaped() {
        check(&[
            ("plain <b>&\"'\n", "plain &lt;b&gt;&amp;&quot;&#39;\n"),
            ("\x1b[31m<script>\x1b[0m", "<span class=\"f1\">&lt;script&gt;</span>"),
            ("section_start:1:<b>\r\x1b[0K", ""),
            ("a section_start:1:x\" onclick=\"\r\x1b[0Kb", "b"),
        ]);
    }

    #[test]
    fn styles_are_those_of_a_terminal() {
        check(&[
            ("\x1b[32;1mgreen\x1b[0;m after", "<span class=\"b f2\">green</span> after"),
            ("\x1b[0Kx\x1b[4mu\x1b[24mv\x1b[91mr\x1b[39m.", "x<span class=\"u\">u</span>v<span class=\"f9\">r</span>."),
            ("\x1b[38;5;9mx", "<span class=\"f9\">x</span>"),
            (
                "\x1b[38;5;208mx\x1b[48;5;244my",
                "<span style=\"color:rgb(255,135,0);\">x</span><span style=\"color:rgb(255,135,0);background:rgb(128,128,128);\">y</span>",
            ),
            ("\x1b[48;2;1;2;3;3mx\n", "<span class=\"i\" style=\"background:rgb(1,2,3);\">x</span>\n"),
            ("\x1b[38;5mx\x1b[38mx\x1b[38;7mx\x1b[999mx", "xxxx"),
            ("\x1b[31", ""),
            ("\x1b[31é", "é"),
            ("a\x1bb", "ab"),
            ("\x1b[8mx\x1b[28my", "<span class=\"h\">x</span>y"),
            ("\x1b[107mx\x1b[30my", "<span class=\"g15\">x</span><span class=\"f0 g15\">y</span>"),
            ("\x1b[48;5;231mx", "<span class=\"l\" style=\"background:rgb(255,255,255);\">x</span>"),
            ("\x1b[38;5;16;48;5;231mx", "<span style=\"color:rgb(0,0,0);background:rgb(255,255,255);\">x</span>"),
            ("a\x07b\x08\tc\u{7f}\u{9b}d", "ab\tcd"),
        ]);
    }

    #[test]
    fn commands_to_the_terminal_are_not_shown() {
        check(&[
            ("a \x1b]8;;javascript:alert(1)\x1b\\link\x1b]8;;\x1b\\ b", "a link b"),
            ("a \x1b]8;;https://x.test\x07link\x1b]8;;\x07 b", "a link b"),
            ("\x1b]0;title\x07x", "x"),
            ("\x1b]0;no end\nx", "\nx"),
            ("\x1b]0;no end\x1b[1mx", "<span class=\"b\">x</span>"),
            ("\x1b]0", "0"),
        ]);
    }

    #[test]
    fn a_carriage_return_clears_the_line() {
        check(&[
            ("0%\r50%\r100%\r\ndone", "100%\ndone"),
            ("\x1b[31m0%\r1%\x1b[0m\n", "<span class=\"f1\">1%</span>\n"),
            ("gone\r", ""),
        ]);
    }

    #[test]
    fn sections_fold_and_tell_how_long_they_took() {
        let took = |time: &str| format!("<span class=\"duration\">{time}</span>");
        check(&[
            (
                "section_start:1:a\r\x1b[0KTitle\nbody\nsection_end:72:a\r\x1b[0Kafter",
                &format!(
                    "<details open data-section=\"a\"><summary>{}Title</summary>body\n</details>after",
                    took("01:11")
                ),
            ),
            (
                "section_start:1:a[collapsed=true]\r\x1b[0Ksection_start:1:b\r\x1b[0KT\nx",
                "<details data-section=\"a\"><summary></summary><details open data-section=\"b\"><summary>T</summary>x</details></details>",
            ),
            (
                "section_start:1:a\r\x1b[0KA\nsection_start:2:b\r\x1b[0KB\nsection_end:4:a\r\x1b[0K",
                &format!(
                    "<details open data-section=\"a\"><summary>{}A</summary><details open data-section=\"b\"><summary>{}B</summary></details></details>",
                    took("00:03"),
                    took("00:02")
                ),
            ),
            (
                "section_start:1:a\r\x1b[0KA\nsection_end:3662:a\r\x1b[0K",
                &format!("<details open data-section=\"a\"><summary>{}A</summary></details>", took("01:01:01")),
            ),
            ("section_end:1:a\r\x1b[0K", ""),
            ("section_moon:1:a\r\x1b[0K sss", " sss"),
            ("section_start:x", "section_start:x"),
        ]);
    }

    /// No log makes the page look at the same text again and again: each of these would take minutes.
    #[test]
    fn a_log_that_is_made_to_be_slow_is_not() {
        let _limit = TimeLimit::start(TimeLimit::TEST);
        let size = 500 << 10;
        let fill = |text: &str| text.repeat(size / text.len());
        for text in [
            "section_",
            "section_ ",
            "section_start:",
            "section_start:1:",
            "section_start:1:a",
            "section_start:1:a\r",
            "section_start:1:a[",
            "section_start:1:a\r\x1b[0K",
            "section_end:1:a\r\x1b[0K",
            "section_start:1:a\r\x1b[0Ksection_end:1:b\r\x1b[0K",
            "\x1b[1mx\x1b[0m",
            "\x1b",
            "\x1b[",
            "\x1b]",
            "\x1b]8;;x",
            "\r",
        ] {
            assert!(render(&fill(text)).len() < 20 * size, "{text:?}");
        }
        let deep = fill("section_start:1:a\r\x1b[0K");
        assert_eq!(render(&deep).matches("<details").count(), DEPTH, "{}", deep.len());
    }
}
