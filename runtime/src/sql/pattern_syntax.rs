//! What the SQL parser does not know of MATCH_RECOGNIZE, rewritten into what it knows: WITHIN and SUBSET become
//! definitions, a reluctant quantifier becomes a second one, FINAL and RUNNING become a part of the function's name.
//! Every token keeps its place, so that mistakes are still shown where they are.

use datafusion::sql::sqlparser::ast::RepetitionQuantifier;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};

/// The definition that is the interval behind WITHIN. No user can write the first character.
pub(crate) const WITHIN: &str = "\u{1}within";
/// The start of the name of a definition that is a subset.
pub(crate) const SUBSET: &str = "\u{1}subset ";
/// The start of the name of a function behind FINAL.
pub(crate) const FINAL: &str = "\u{1}final ";
/// The start of the name of a function behind RUNNING.
pub(crate) const RUNNING: &str = "\u{1}running ";
/// The quantifier that makes the one before it reluctant.
pub(crate) const RELUCTANT: RepetitionQuantifier = RepetitionQuantifier::Range(u32::MAX, 0);

/// An exclusion `{- … -}` in a pattern: line and column from 1.
#[derive(Debug)]
pub(crate) struct Exclusion(pub(crate) (u64, u64));

/// `tokens` with each MATCH_RECOGNIZE as the parser knows it.
pub(crate) fn rewrite(tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>, Exclusion> {
    if !tokens.iter().any(|token| is_word(token, "MATCH_RECOGNIZE")) {
        return Ok(tokens);
    }
    let tokens: Vec<TokenWithSpan> =
        tokens.into_iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect();
    let (mut rewritten, mut at) = (Vec::with_capacity(tokens.len()), 0);
    while at < tokens.len() {
        let opens = is_word(&tokens[at], "MATCH_RECOGNIZE")
            && tokens.get(at + 1).is_some_and(|token| token.token == Token::LParen);
        rewritten.push(tokens[at].clone());
        at += 1;
        if opens {
            let end = closing(&tokens, at);
            rewritten.push(tokens[at].clone());
            rewritten.extend(body(&tokens[at + 1..end])?);
            at = end;
        }
    }
    Ok(rewritten)
}

fn is_word(token: &TokenWithSpan, wanted: &str) -> bool {
    matches!(&token.token, Token::Word(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(wanted))
}

/// The index of the parenthesis that closes the one at `open`, or the end.
fn closing(tokens: &[TokenWithSpan], open: usize) -> usize {
    let mut depth = 0_usize;
    let closes = tokens[open..].iter().position(|token| {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            _ => {}
        }
        depth == 0
    });
    closes.map_or(tokens.len(), |offset| open + offset)
}

/// The index of the first of the words `wanted` from `from` on that is in no parentheses, or the end.
fn find(tokens: &[TokenWithSpan], from: usize, wanted: &[&str]) -> usize {
    let mut at = from;
    while at < tokens.len() {
        if wanted.iter().any(|word| is_word(&tokens[at], word)) {
            return at;
        }
        at = if tokens[at].token == Token::LParen { closing(tokens, at) + 1 } else { at + 1 };
    }
    tokens.len()
}

fn word(value: String, quote_style: Option<char>, like: &TokenWithSpan) -> TokenWithSpan {
    let token = Token::Word(Word { value, quote_style, keyword: Keyword::NoKeyword });
    TokenWithSpan { token, span: like.span }
}

fn keyword(text: &str, like: &TokenWithSpan) -> TokenWithSpan {
    TokenWithSpan { token: Token::make_keyword(text), span: like.span }
}

fn sign(token: Token, like: &TokenWithSpan) -> TokenWithSpan {
    TokenWithSpan { token, span: like.span }
}

/// What stands between the parentheses of MATCH_RECOGNIZE.
fn body(tokens: &[TokenWithSpan]) -> Result<Vec<TokenWithSpan>, Exclusion> {
    let start = find(tokens, 0, &["PATTERN"]);
    let mut rewritten = functions(&tokens[..start]);
    let opens = tokens.get(start + 1).is_some_and(|token| token.token == Token::LParen);
    if !opens {
        rewritten.extend_from_slice(&tokens[start..]);
        return Ok(rewritten);
    }
    let end = closing(tokens, start + 1);
    rewritten.extend_from_slice(&tokens[start..start + 2]);
    rewritten.extend(pattern(&tokens[start + 2..end])?);
    rewritten.extend(tokens.get(end).cloned());
    let rest = tokens.get(end + 1..).unwrap_or_default();
    let define = find(rest, 0, &["DEFINE"]);
    let subset = find(&rest[..define], 0, &["SUBSET"]);
    let Some(first) = rest.get(define) else {
        // Without DEFINE the parser says what is missing.
        return Ok(rewritten);
    };
    let within = find(&rest[..subset], 0, &["WITHIN"]);
    rewritten.extend_from_slice(&rest[..within]);
    rewritten.push(first.clone());
    if let Some((head, interval)) = rest[within..subset].split_first() {
        rewritten.extend([word(WITHIN.to_owned(), Some('"'), head), keyword("AS", head)]);
        rewritten.extend_from_slice(interval);
        rewritten.push(sign(Token::Comma, head));
    }
    if let Some((head, subsets)) = rest[subset..define].split_first() {
        rewritten.extend(definitions(subsets));
        rewritten.push(sign(Token::Comma, head));
    }
    rewritten.extend(functions(&rest[define + 1..]));
    Ok(rewritten)
}

/// `U = (A, B), …` as definitions.
fn definitions(tokens: &[TokenWithSpan]) -> Vec<TokenWithSpan> {
    let (mut rewritten, mut depth) = (Vec::with_capacity(tokens.len()), 0_usize);
    for token in tokens {
        match &token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        rewritten.push(match &token.token {
            Token::Word(name) if depth == 0 => {
                let name = if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() };
                word(format!("{SUBSET}{name}"), Some('"'), token)
            }
            Token::Eq if depth == 0 => keyword("AS", token),
            _ => token.clone(),
        });
    }
    rewritten
}

/// FINAL and RUNNING as a part of the name that follows.
fn functions(tokens: &[TokenWithSpan]) -> Vec<TokenWithSpan> {
    let (mut rewritten, mut at) = (Vec::with_capacity(tokens.len()), 0);
    while at < tokens.len() {
        let prefix = match &tokens[at] {
            token if is_word(token, "FINAL") => Some(FINAL),
            token if is_word(token, "RUNNING") => Some(RUNNING),
            _ => None,
        };
        let name = tokens.get(at + 1).filter(|_| tokens.get(at + 2).is_some_and(|t| t.token == Token::LParen));
        match (prefix, name.map(|name| &name.token)) {
            (Some(prefix), Some(Token::Word(name))) => {
                rewritten.push(word(format!("{prefix}{}", name.value.to_lowercase()), Some('"'), &tokens[at]));
                at += 2;
            }
            _ => {
                rewritten.push(tokens[at].clone());
                at += 1;
            }
        }
    }
    rewritten
}

/// A pattern: signs one by one, and the `?` that makes a quantifier reluctant told from the one that is a quantifier.
fn pattern(tokens: &[TokenWithSpan]) -> Result<Vec<TokenWithSpan>, Exclusion> {
    let mut rewritten: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    // The sign before is a quantifier, or the end of one.
    let mut quantified = false;
    for token in tokens {
        if let Token::Word(name) = &token.token {
            // The parser takes this word in capitals only.
            let name = match is_word(token, "PERMUTE") {
                true => "PERMUTE".to_owned(),
                false => name.value.clone(),
            };
            let Token::Word(old) = &token.token else { continue };
            rewritten.push(sign(Token::Word(Word { value: name, ..old.clone() }), token));
            quantified = false;
            continue;
        }
        if matches!(token.token, Token::Number(..)) {
            rewritten.push(token.clone());
            continue;
        }
        for c in token.token.to_string().chars() {
            let single = match c {
                '*' => Token::Mul,
                '+' => Token::Plus,
                '|' => Token::Pipe,
                '(' => Token::LParen,
                ')' => Token::RParen,
                '{' => Token::LBrace,
                '}' => Token::RBrace,
                ',' => Token::Comma,
                '-' if rewritten.last().is_some_and(|last| last.token == Token::LBrace) => {
                    return Err(Exclusion((token.span.start.line, token.span.start.column)));
                }
                '-' => Token::Minus,
                '^' => Token::Caret,
                '?' if quantified => {
                    let RepetitionQuantifier::Range(from, to) = RELUCTANT else { continue };
                    let number = |number: u32| Token::Number(number.to_string(), false);
                    let mark = [Token::LBrace, number(from), Token::Comma, number(to), Token::RBrace];
                    rewritten.extend(mark.map(|part| sign(part, token)));
                    quantified = false;
                    continue;
                }
                other => Token::Placeholder(other.to_string()),
            };
            quantified = matches!(single, Token::Mul | Token::Plus | Token::RBrace)
                || matches!(&single, Token::Placeholder(sign) if sign == "?");
            rewritten.push(sign(single, token));
        }
    }
    Ok(rewritten)
}
