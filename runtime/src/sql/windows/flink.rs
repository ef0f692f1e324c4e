//! The window functions as Flink's users write them:
//! `FROM TABLE(SESSION(TABLE t PARTITION BY k, DESCRIPTOR(ts), INTERVAL '5' MINUTE))`.
//!
//! The tokens are rewritten to the short form before they are parsed: `FROM SESSION(t, ts, INTERVAL '5' MINUTE, k)`.
//! Every token that is left keeps its place, so that mistakes are still shown where they are.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::sql::windows::planner::Function;

/// `tokens` with all window functions in their short form.
pub(crate) fn rewritten(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    if !tokens.iter().any(|token| keyword(token) == Some(Keyword::TABLE) || is_word(token, "DESCRIPTOR")) {
        return tokens;
    }
    let mut tokens: Vec<TokenWithSpan> =
        tokens.into_iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect();
    let mut at = 0;
    while at + 1 < tokens.len() {
        let function = matches!(&tokens[at].token, Token::Word(word) if Function::named(&word.value).is_some());
        if function && tokens[at + 1].token == Token::LParen {
            at = call(&mut tokens, at);
        }
        at += 1;
    }
    tokens
}

fn keyword(token: &TokenWithSpan) -> Option<Keyword> {
    match &token.token {
        Token::Word(word) => Some(word.keyword),
        _ => None,
    }
}

fn is_word(token: &TokenWithSpan, text: &str) -> bool {
    matches!(&token.token, Token::Word(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(text))
}

/// Where the parenthesis that opens at `open` closes.
fn closing(tokens: &[TokenWithSpan], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    tokens.iter().enumerate().skip(open).find_map(|(at, token)| {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            _ => {}
        }
        (depth == 0).then_some(at)
    })
}

/// Rewrites the call whose name is at `name`; where its name is now.
fn call(tokens: &mut Vec<TokenWithSpan>, name: usize) -> usize {
    let Some(mut close) = closing(tokens, name + 1) else { return name };
    close = first_argument(tokens, name + 2, close);
    close = descriptors(tokens, name + 2, close);
    // TABLE( … ) around it.
    let wrapped = name >= 2
        && tokens[name - 1].token == Token::LParen
        && keyword(&tokens[name - 2]) == Some(Keyword::TABLE)
        && tokens.get(close + 1).is_some_and(|token| token.token == Token::RParen);
    if !wrapped {
        return name;
    }
    tokens.remove(close + 1);
    tokens.drain(name - 2..name);
    name - 2
}

/// `TABLE t PARTITION BY k` becomes `t`, and the keys become the last arguments. Where the call closes now.
fn first_argument(tokens: &mut Vec<TokenWithSpan>, first: usize, mut close: usize) -> usize {
    if keyword(&tokens[first]) != Some(Keyword::TABLE) || first + 1 >= close {
        return close;
    }
    tokens.remove(first);
    close -= 1;
    let partitioned = keyword(&tokens[first + 1]) == Some(Keyword::PARTITION)
        && tokens.get(first + 2).and_then(keyword) == Some(Keyword::BY);
    if !partitioned {
        return close;
    }
    // The keys end with their parenthesis, or before DESCRIPTOR.
    let start = first + 3;
    let parentheses = tokens[start].token == Token::LParen;
    let end = match parentheses {
        true => closing(tokens, start).map(|end| end + 1),
        false => (start..close).find(|at| is_word(&tokens[*at], "DESCRIPTOR")).map(|end| end - 1),
    };
    let Some(end) = end.filter(|end| *end <= close && start < *end) else { return close };
    let comma = TokenWithSpan { token: Token::Comma, span: tokens[start].span };
    let mut keys: Vec<TokenWithSpan> = tokens.drain(first + 1..end).skip(2).collect();
    close -= end - (first + 1);
    if parentheses {
        keys.remove(0);
        keys.pop();
    }
    keys.insert(0, comma);
    let added = keys.len();
    tokens.splice(close..close, keys);
    close + added
}

/// `DESCRIPTOR(ts)` becomes `ts`. Where the call closes now.
fn descriptors(tokens: &mut Vec<TokenWithSpan>, first: usize, mut close: usize) -> usize {
    let mut at = first;
    while at + 1 < close {
        if is_word(&tokens[at], "DESCRIPTOR")
            && tokens[at + 1].token == Token::LParen
            && let Some(end) = closing(tokens, at + 1).filter(|end| *end < close)
        {
            tokens.remove(end);
            tokens.drain(at..at + 2);
            close -= 3;
        }
        at += 1;
    }
    close
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;

    fn short(sql: &str) -> String {
        let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().unwrap();
        let tokens = super::rewritten(tokens);
        let texts: Vec<String> = tokens.iter().map(|token| token.token.to_string()).collect();
        texts.join(" ").replace("  ", " ").replace("  ", " ")
    }

    #[test]
    fn the_long_forms_become_the_short_ones() {
        let long = "SELECT k FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' MINUTE)) AS w WHERE (k)";
        assert_eq!(short(long), "SELECT k FROM TUMBLE ( t , ts , INTERVAL '10' MINUTE ) AS w WHERE ( k )");
        for keys in ["PARTITION BY a, b", "PARTITION BY (a, b)"] {
            let long = format!("FROM table(session(table t {keys}, descriptor(ts), INTERVAL '5' MINUTE))");
            assert_eq!(short(&long), "FROM session ( t , ts , INTERVAL '5' MINUTE , a , b )");
        }
    }

    #[test]
    fn what_is_no_window_function_stays_as_it_is() {
        assert_eq!(short("TABLE t"), "TABLE t");
        assert_eq!(short("SELECT hop ( table"), "SELECT hop ( table");
        assert_eq!(short("HOP(TABLE t PARTITION BY"), "HOP ( TABLE t PARTITION BY");
        assert_eq!(short("SESSION(TABLE t PARTITION BY)"), "SESSION ( t PARTITION BY )");
        assert_eq!(short("SESSION(TABLE)"), "SESSION ( TABLE )");
        assert_eq!(short("HOP(DESCRIPTOR())"), "HOP ( )");
    }
}
