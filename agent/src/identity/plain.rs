//! Text of strangers, made fit for logs and terminals.

use std::fmt::Display;

/// Longest text that is kept, in characters.
const MAX_CHARS: usize = 512;

/// Printable ASCII of `text`, everything else as `?`, so that it can neither forge a line nor command a terminal.
pub fn plain(text: impl Display) -> String {
    let text = text.to_string();
    text.chars().take(MAX_CHARS).map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_forged_and_no_terminal_commanded() {
        assert_eq!(plain("a\nERROR b\x1b[2J\u{202e}c"), "a?ERROR b?[2J?c");
        assert_eq!(plain("x".repeat(MAX_CHARS + 1)).len(), MAX_CHARS);
    }
}
