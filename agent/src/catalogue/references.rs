//! Whether a style or script works from any place: a replica lies on another name under another path, so whatever it refers to
//! relatively would be looked for there.

use cssparser::{BasicParseErrorKind, ParseError, ParseErrorKind, Parser, Token};
use p2pcdn_core::object::Class;

/// Longest style or script that is looked through, in bytes; longer ones stay local.
pub const MAX_CODE_BYTES: usize = 2 << 20;
/// Blocks within blocks in a style; deeper ones stay local.
const MAX_DEPTH: u32 = 64;

/// Why a style or script stays local.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reference {
    /// A style refers to something by a URL that is not absolute.
    #[error("it refers to {0:?}, which is not an absolute URL")]
    Relative(String),
    /// A script imports, or may import, or asks for its own URL.
    #[error("it may import relatively to itself, or ask for its own URL")]
    Import,
    /// Not UTF-8, or not understood.
    #[error("it is not understood")]
    Syntax,
    /// Longer than [`MAX_CODE_BYTES`].
    #[error("it is longer than {MAX_CODE_BYTES} bytes")]
    TooLong,
}

/// Whether the body works from any place; always so for the other classes.
pub fn check(class: Class, body: &[u8]) -> Result<(), Reference> {
    if class.is_leaf() {
        return Ok(());
    }
    if body.len() > MAX_CODE_BYTES {
        return Err(Reference::TooLong);
    }
    let text = std::str::from_utf8(body).map_err(|_| Reference::Syntax)?;
    if class == Class::Style { check_style(text) } else { check_script(text) }
}

fn check_style(text: &str) -> Result<(), Reference> {
    check_tokens(&mut Parser::new(text), Strings::Text, 0)
}

/// What strings mean where they stand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strings {
    Text,
    Urls,
}

fn check_tokens(parser: &mut Parser<'_>, strings: Strings, depth: u32) -> Result<(), Reference> {
    let mut follows_import = false;
    loop {
        let token = match parser.next() {
            Ok(token) => token,
            Err(error) if error.kind == BasicParseErrorKind::EndOfInput => return Ok(()),
            Err(_) => return Err(Reference::Syntax),
        };
        let inside = match token {
            Token::UnquotedUrl(url) => {
                check_url(url)?;
                None
            }
            Token::QuotedString(text) if strings == Strings::Urls || follows_import => {
                check_url(text)?;
                None
            }
            Token::BadUrl(_) | Token::BadString(_) => return Err(Reference::Syntax),
            // What a variable stands for is not known here.
            Token::Function(name) if strings == Strings::Urls && !is_harmless_among_urls(name) => {
                return Err(Reference::Relative(name.chars().take(100).collect()));
            }
            Token::Function(name) => Some(meaning_in(name)),
            Token::ParenthesisBlock | Token::SquareBracketBlock | Token::CurlyBracketBlock => Some(Strings::Text),
            _ => None,
        };
        follows_import = matches!(token, Token::AtKeyword(name) if name.eq_ignore_ascii_case("import"));
        let Some(strings) = inside else { continue };
        if depth == MAX_DEPTH {
            return Err(Reference::Syntax);
        }
        let nested = parser.parse_nested_block(|block| {
            check_tokens(block, strings, depth + 1).map_err(|kind| ParseError { kind: ParseErrorKind::Custom(kind) })
        });
        nested.map_err(|error| match error.kind {
            ParseErrorKind::Custom(reference) => reference,
            ParseErrorKind::Basic(_) => Reference::Syntax,
        })?;
    }
}

/// Functions of CSS Values and Images whose strings are URLs.
fn meaning_in(function: &str) -> Strings {
    let urls = ["url", "src", "image", "image-set", "-webkit-image-set"];
    if urls.iter().any(|name| function.eq_ignore_ascii_case(name)) { Strings::Urls } else { Strings::Text }
}

/// Functions beside URLs in `image-set` that name none, or whose own are checked.
fn is_harmless_among_urls(function: &str) -> bool {
    let is = |name: &str| function.eq_ignore_ascii_case(name);
    let is_gradient =
        function.get(function.len().saturating_sub(9)..).is_some_and(|end| end.eq_ignore_ascii_case("-gradient"));
    is("type") || is_gradient || meaning_in(function) == Strings::Urls
}

fn check_url(url: &str) -> Result<(), Reference> {
    let begins = |prefix: &str| url.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    if url.starts_with('#') || ["https://", "http://", "data:"].into_iter().any(begins) {
        return Ok(());
    }
    Err(Reference::Relative(url.chars().take(100).collect()))
}

/// Scripts are read by words, not parsed: the grammar's parsers descend as deep as the input nests, and one file of parentheses
/// would end the agent with its stack (the module lexers that are published are fronts of such parsers). What looks like an import and is none, as in a string or comment, only keeps the script here.
///
/// Classic scripts and modules cannot be told apart by their type, so the rules for modules hold for all.
fn check_script(text: &str) -> Result<(), Reference> {
    for (word, rest) in words(text) {
        let refers = match word {
            "import" => may_be_import(rest),
            "export" => may_name_module(rest),
            _ => false,
        };
        if refers {
            return Err(Reference::Import);
        }
    }
    Ok(())
}

/// Each `import` and `export` that stands as a word, with what follows.
fn words(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let found = text.match_indices("import").chain(text.match_indices("export"));
    found.filter_map(|(at, word)| {
        let (before, rest) = (text.get(..at)?, text.get(at + word.len()..)?);
        let is_word = !before.chars().next_back().is_some_and(is_name) && !rest.chars().next().is_some_and(is_name);
        is_word.then_some((word, rest))
    })
}

/// `import x from`, `import {`, `import *`, `import "x"`, `import(`, `import.meta` and `import source x from`, but neither
/// `{ import: 1 }` nor prose.
fn may_be_import(rest: &str) -> bool {
    let rest = skip_blank(rest);
    match rest.chars().next() {
        None | Some(':' | '=' | ')' | ']' | '}' | ',' | ';' | '?' | '!' | '>') => false,
        Some(first) if is_name(first) => {
            let after = skip_blank(rest.trim_start_matches(is_name));
            let second: String = after.chars().take_while(|c| is_name(*c)).collect();
            let phase = rest.get(..rest.len() - rest.trim_start_matches(is_name).len()).unwrap_or_default();
            matches!(phase, "source" | "defer") || second == "from" || !after.starts_with(is_name)
        }
        Some(_) => true,
    }
}

/// `export * from` and `export { x } from`.
fn may_name_module(rest: &str) -> bool {
    let rest = skip_blank(rest);
    if let Some(list) = rest.strip_prefix('{') {
        let Some((names, after)) = list.split_once('}') else { return true };
        return names.contains(['"', '\'', '/']) || skip_blank(after).starts_with("from");
    }
    rest.starts_with('*')
}

fn skip_blank(text: &str) -> &str {
    let mut rest = text.trim_start_matches(is_blank);
    loop {
        let after = if let Some(comment) = rest.strip_prefix("/*") {
            comment.split_once("*/").map(|(_, after)| after)
        } else if let Some(comment) = rest.strip_prefix("//") {
            comment.split_once(['\n', '\r', '\u{2028}', '\u{2029}']).map(|(_, after)| after)
        } else {
            return rest;
        };
        let Some(after) = after else { return "" };
        rest = after.trim_start_matches(is_blank);
    }
}

fn is_blank(c: char) -> bool {
    c.is_whitespace() || c == '\u{feff}'
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$' | '\\')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn style(text: &str) -> Result<(), Reference> {
        check(Class::Style, text.as_bytes())
    }

    fn script(text: &str) -> Result<(), Reference> {
        check(Class::Script, text.as_bytes())
    }

    #[test]
    fn styles_that_refer_to_nothing_relative_are_shared() {
        for good in [
            "",
            "a { color: red }",
            "@import \"https://cdn.test/x.css\"; @import url(https://cdn.test/y.css) screen;",
            "a { background: url( 'data:image/png;base64,AA==' ) }",
            "a { fill: url(#gradient); filter: URL(\"#f\") }",
            "a::before { content: \"/not/a/url.png\"; quotes: \"x.png\" }",
            "@font-face { src: url(HTTPS://cdn.test/f.woff2) format(\"woff2\") }",
            "a { background: image-set(url(https://cdn.test/a.png) type(\"image/png\") 1x) }",
            "/* url(x.png) */ a[href=\"x.png\"] { }",
            "@charset \"utf-8\"; @media (min-width: 1px) { @supports (a: b) { a { } } }",
        ] {
            assert_eq!(style(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn styles_that_refer_relatively_stay() {
        for (bad, url) in [
            ("a { background: url(x.png) }", "x.png"),
            ("a { background: url( \"../x.png\" ) }", "../x.png"),
            ("a { background: url('/x.png') }", "/x.png"),
            ("a { background: url(//cdn.test/x.png) }", "//cdn.test/x.png"),
            ("@import 'x.css';", "x.css"),
            ("@IMPORT /* . */ \"x.css\" screen;", "x.css"),
            ("@import url(x.css);", "x.css"),
            ("@media print { @media print { a { background: url(x.png) } } }", "x.png"),
            (":root { --u: \"x.png\" } a { background: image-set(var(--u) 1x) }", "var"),
            ("a { background: -webkit-image-set(\"x.png\" 1x) }", "x.png"),
            ("a { --later: url(x.png) }", "x.png"),
            ("a { background: u\\72l(x.png) }", "x.png"),
            ("a { background: url() }", ""),
        ] {
            assert_eq!(style(bad), Err(Reference::Relative(url.into())), "{bad}");
        }
    }

    #[test]
    fn styles_that_are_not_understood_stay() {
        assert_eq!(style("a { background: url(x\"y) }"), Err(Reference::Syntax));
        assert_eq!(style(&"{".repeat(1000)), Err(Reference::Syntax));
        assert_eq!(check(Class::Style, b"a { content: \"\xff\" }"), Err(Reference::Syntax));
        assert_eq!(style(&" ".repeat(MAX_CODE_BYTES + 1)), Err(Reference::TooLong));
    }

    #[test]
    fn scripts_that_import_nothing_are_shared() {
        for good in [
            "",
            "const important = 1; reimport(); imports(); $import(); x.exports = 2",
            "export const a = 1; export default function () {} export { a as b, b as a };",
            "// You may import your own.\nf()",
            "throw Error(\"could not import the module\")",
            "const keys = { import: 1, export: 2 }; if (kind === 'imports') {}",
            "var exported = from; export { x }\nfunction from() {}",
            "//# sourceMappingURL=x.js.map",
        ] {
            assert_eq!(script(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn scripts_that_may_import_stay() {
        for bad in [
            "import \"./x.js\"",
            "import'./x.js'",
            "import x from \"./x.js\"",
            "import x, { y } from \"./x.js\"",
            "import{y}from\"./x.js\"",
            "import * as x from './x.js'",
            "import/* . */x/* . */from './x.js'",
            "import // .\n x from './x.js'",
            "import defer * as x from './x.js'",
            "import source x from './x.wasm'",
            "const x = await import(\"./x.js\")",
            "const x = import /* webpackIgnore: true */ (`./${y}.js`)",
            "new Worker(new URL(\"./w.js\", import.meta.url))",
            "import . meta",
            "export * from './x.js'",
            "export*as x from'./x.js'",
            "export { x } from './x.js'",
            "export{x}from'./x.js'",
            "export { \"}\" as x } from './x.js'",
            "export { x } /* . */ from './x.js'",
            "export\u{feff}{x}\u{feff}from './x.js'",
            "import x from \"https://cdn.test/x.js\"",
        ] {
            assert_eq!(script(bad), Err(Reference::Import), "{bad}");
        }
    }

    #[test]
    fn leaves_are_not_looked_into() {
        assert_eq!(check(Class::Image, b"\xff import './x.js' url(x.png)"), Ok(()));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>, text in "(import|export|from|url\\(|[ {}()'\"*/\\\\@;.a]){0,40}") {
            for body in [&bytes[..], text.as_bytes()] {
                let _ = check(Class::Style, body);
                let _ = check(Class::Script, body);
            }
        }
    }
}
