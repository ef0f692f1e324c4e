//! YAML text → tree. All limits on size are kept here, before anything is expanded.

use std::collections::BTreeMap;

use granit_parser::{Event, Parser, ScalarStyle, Tag};

use super::limits::YamlLimits;
use super::node::{Entry, FileId, Kind, Map, Node, Span, Style, Text, resolve_plain};
use super::problem::{Part, Problem};
use super::syntax;

/// What parsing gave. There is no tree where the syntax is wrong.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) root: Option<Node>,
    pub(super) problems: Vec<Problem>,
}

/// Parses `text`, which is file number `file`.
pub(super) fn parse(text: &str, file: FileId, limits: &YamlLimits) -> Parsed {
    if text.len() > limits.file_bytes_max {
        let message =
            format!("the file has {} bytes; at most {} are read (file_bytes_max)", text.len(), limits.file_bytes_max);
        return Parsed { root: None, problems: vec![at(Span::default(), message)] };
    }
    let mut builder = Builder::new(text, file, limits);
    let root = match builder.run() {
        Ok(root) => root,
        Err(problem) => {
            builder.problems.push(*problem);
            None
        }
    };
    Parsed { root, problems: builder.problems }
}

/// An error at a place of the file.
fn at(span: Span, message: impl Into<String>) -> Problem {
    Problem::new([""; 0], message).at(Part::Bytes { start: span.start, end: span.end })
}

/// A list or map that is not yet closed.
enum Frame {
    List {
        start: Span,
        anchor: usize,
        items: Vec<Node>,
    },
    Map {
        start: Span,
        anchor: usize,
        map: Map,
        key: Option<(String, Span)>,
    },
    /// A map whose keys are thrown away: the value of a key that was refused.
    Key {
        depth: usize,
        span: Span,
    },
}

struct Builder<'a> {
    text: &'a str,
    file: FileId,
    limits: &'a YamlLimits,
    frames: Vec<Frame>,
    root: Option<Node>,
    anchors: BTreeMap<usize, Node>,
    problems: Vec<Problem>,
    nodes: usize,
    bytes: usize,
}

type Stop = Box<Problem>;

impl<'a> Builder<'a> {
    fn new(text: &'a str, file: FileId, limits: &'a YamlLimits) -> Self {
        Self {
            text,
            file,
            limits,
            frames: Vec::new(),
            root: None,
            anchors: BTreeMap::new(),
            problems: Vec::new(),
            nodes: 0,
            bytes: 0,
        }
    }

    fn run(&mut self) -> Result<Option<Node>, Stop> {
        let options = granit_parser::options! {
            emit_comments: false,
            emit_unresolved_aliases: true,
            flow_nesting_limit: self.limits.depth_max,
            block_nesting_limit: self.limits.depth_max,
        };
        let mut documents = 0;
        let mut parser = Parser::new_from_str_with_options(self.text, options);
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|error| Box::new(syntax::explain(self.text, &error, self.limits)))?;
            let range = span.byte_range().unwrap_or_default();
            let span = Span { file: self.file, start: range.start, end: range.end };
            if matches!(event, Event::DocumentStart(..)) {
                documents += 1;
                if documents > 1 {
                    let message = "a second YAML document starts here; a file holds one";
                    return Err(Box::new(at(span, message).hint("put it into a file of its own, or remove the `---`")));
                }
            }
            self.event(event, span)?;
        }
        if self.root.is_none() && self.problems.is_empty() {
            let hint = "a pipeline needs at least `sources:` and `sinks:`";
            self.problems.push(at(Span::default(), "the file is empty").hint(hint));
        }
        Ok(self.root.take())
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Stop> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.check_tag(tag.as_deref(), span);
                self.count(1, text.len(), span)?;
                // An absent value is an empty span with the text `~`.
                let absent = style == ScalarStyle::Plain && span.start == span.end;
                let node = Node::new(span, scalar(if absent { "" } else { &text }, style, tag.as_deref()));
                self.take(node, anchor, Some(&text))
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), span);
                self.open(span, |start| Frame::List { start, anchor, items: Vec::new() })
            }
            Event::MappingStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), span);
                self.open(span, |start| Frame::Map { start, anchor, map: Map::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(id) => self.alias(id, span),
            Event::UnresolvedAlias(name) => {
                let message = format!("`*{name}` names an anchor that does not exist above");
                Err(Box::new(at(span, message).hint(format!("write `&{name}` at the value meant, or quote the text"))))
            }
            _ => Ok(()),
        }
    }

    /// Tags other than those of the core schema would be ignored, so they are refused.
    fn check_tag(&mut self, tag: Option<&Tag>, span: Span) {
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema()) {
            let problem = at(span, format!("the tag `{}` means nothing here", tag.original()));
            self.problems.push(problem.hint("remove it"));
        }
    }

    fn count(&mut self, nodes: usize, bytes: usize, span: Span) -> Result<(), Stop> {
        self.nodes = self.nodes.saturating_add(nodes);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.nodes > self.limits.nodes_max {
            let message = format!(
                "the file holds more than {} values, counting those that aliases repeat (nodes_max)",
                self.limits.nodes_max
            );
            return Err(Box::new(at(span, message)));
        }
        if self.bytes > self.limits.expanded_bytes_max {
            let message = format!(
                "the file holds more than {} bytes of text, counting those that aliases repeat (expanded_bytes_max)",
                self.limits.expanded_bytes_max
            );
            return Err(Box::new(at(span, message)));
        }
        Ok(())
    }

    fn open(&mut self, span: Span, frame: impl FnOnce(Span) -> Frame) -> Result<(), Stop> {
        self.count(1, 0, span)?;
        self.check_depth(1, span)?;
        match self.frames.last_mut() {
            Some(Frame::Key { depth, .. }) => *depth += 1,
            Some(Frame::Map { key: None, .. }) => self.frames.push(Frame::Key { depth: 1, span }),
            _ => self.frames.push(frame(span)),
        }
        Ok(())
    }

    fn check_depth(&self, more: usize, span: Span) -> Result<(), Stop> {
        if self.frames.len() + more <= self.limits.depth_max {
            return Ok(());
        }
        let message = format!("lists and maps are nested deeper than {} levels (depth_max)", self.limits.depth_max);
        Err(Box::new(at(span, message)))
    }

    fn close(&mut self, end: Span) -> Result<(), Stop> {
        if let Some(Frame::Key { depth, span }) = self.frames.last_mut() {
            *depth -= 1;
            if *depth > 0 {
                return Ok(());
            }
            let span = *span;
            self.frames.pop();
            let problem =
                at(span, "a list or map cannot be a key").hint("write a text before the `:`; quote a `{` or `[`");
            return Err(Box::new(problem));
        }
        let (node, anchor) = match self.frames.pop() {
            Some(Frame::List { start, anchor, items }) => {
                (Node::new(Span { end: end.end.max(start.start), ..start }, Kind::List(items)), anchor)
            }
            Some(Frame::Map { start, anchor, map, .. }) => {
                (Node::new(Span { end: end.end.max(start.start), ..start }, Kind::Map(map)), anchor)
            }
            _ => return Ok(()),
        };
        self.take(node, anchor, None)
    }

    fn alias(&mut self, id: usize, span: Span) -> Result<(), Stop> {
        let Some(node) = self.anchors.get(&id) else {
            return Err(Box::new(at(span, "this alias stands inside the value that it repeats")));
        };
        let measure = node.measure();
        self.check_depth(measure.depth - 1, span)?;
        self.count(measure.nodes, measure.bytes, span)?;
        let Some(node) = self.anchors.get(&id).cloned() else { return Ok(()) };
        let text = node.as_text().map(str::to_owned);
        self.take(node, 0, text.as_deref())
    }

    /// Puts a finished node where it belongs: as a key, a value, an item or the root.
    fn take(&mut self, node: Node, anchor: usize, written: Option<&str>) -> Result<(), Stop> {
        if anchor != 0 {
            let measure = node.measure();
            self.count(measure.nodes, measure.bytes, node.span)?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.frames.last_mut() {
            None => self.root = Some(node),
            Some(Frame::List { items, .. }) => items.push(node),
            Some(Frame::Key { .. }) => {}
            Some(Frame::Map { map, key, .. }) => match key.take() {
                None => {
                    let name = key_text(&node, written)?;
                    *key = Some((name, node.span));
                }
                Some((name, key_span)) => {
                    if let Some(first) = map.get(&name) {
                        let line = self.text.get(..first.key_span.start).map_or(1, |t| t.matches('\n').count() + 1);
                        let message = format!("`{name}` is written twice; the first one is in line {line}");
                        self.problems.push(at(key_span, message).hint("remove one, or give it another name"));
                    } else {
                        map.insert(name, Entry { key_span, value: node });
                    }
                }
            },
        }
        Ok(())
    }
}

fn key_text(node: &Node, written: Option<&str>) -> Result<String, Stop> {
    let wrong = |message: &str, hint: &str| Err(Box::new(at(node.span, message).hint(hint)));
    match (&node.kind, written) {
        (Kind::Text(Text { text, style: Style::Plain, .. }), _) if text == "<<" => wrong(
            "merge keys (`<<`) are not part of YAML 1.2 and are not read",
            "write the keys out, repeat a whole value by an alias, or use `profiles`",
        ),
        (Kind::Text(text), _) if !text.text.is_empty() => Ok(text.text.clone()),
        (Kind::Bool(_) | Kind::Number(_), Some(written)) => Ok(written.to_owned()),
        (Kind::Null, Some(written)) if node.span.start < node.span.end => Ok(written.to_owned()),
        _ => wrong("a key is missing before the `:`", "write `key: value`"),
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Kind {
    let style = match style {
        ScalarStyle::Plain => Style::Plain,
        ScalarStyle::SingleQuoted => Style::SingleQuoted,
        ScalarStyle::DoubleQuoted => Style::DoubleQuoted,
        ScalarStyle::Literal => Style::Literal,
        ScalarStyle::Folded => Style::Folded,
    };
    match tag.and_then(Tag::core_suffix) {
        None if style == Style::Plain => resolve_plain(text),
        None | Some("str") => Kind::Text(Text { text: text.to_owned(), style, filled: None }),
        // `!!int "5"`: what the text would be without its quotes.
        Some(_) => resolve_plain(text),
    }
}
