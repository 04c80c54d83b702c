//! An Aho-Corasick automaton over a trie: it walks a stream byte by byte, in linear time whatever the texts and the stream are.
//!
//! Its state is always the longest end of the stream that is the beginning of a text.

use std::ops::Range;

use super::texts::Texts;

/// A node of the trie, and with it a state.
pub(super) type State = u32;

/// Nothing is begun.
pub(super) const ROOT: State = 0;

#[derive(Clone, Copy, Default)]
struct Node {
    /// Its children lie next to each other, from here on.
    first: u32,
    children: u32,
    /// The longest proper end of this node's string that is a node as well.
    fail: State,
    /// The length of its string.
    depth: u32,
    /// The length of the longest text its string ends with, 0 if there is none.
    found: u32,
    /// The first of the texts that begin with its string.
    text: u32,
}

/// The trie, with the links of the automaton.
pub(super) struct Trie {
    nodes: Vec<Node>,
    /// The byte that leads to each node.
    labels: Vec<u8>,
    /// The root's children.
    from_root: Box<[State; 256]>,
}

impl Trie {
    /// Adds the nodes level by level, so that what a node falls back to is always there before it.
    pub(super) fn over(texts: &Texts) -> Self {
        let mut trie = Self { nodes: vec![Node::default()], labels: vec![0], from_root: Box::new([ROOT; 256]) };
        let texts: Vec<&[u8]> = texts.iter().collect();
        // The texts that begin with a node's string lie next to each other.
        let mut ranges: Vec<Range<usize>> = std::iter::once(0..texts.len()).collect();
        let mut at = 0;
        while let Some(range) = ranges.get(at).cloned() {
            let parent = trie.node(at as State);
            let depth = parent.depth as usize;
            let first = trie.nodes.len() as u32;
            let mut rest = texts.get(range.clone()).unwrap_or_default();
            let mut text = range.start;
            while let Some(next) = rest.first() {
                let Some(&label) = next.get(depth) else {
                    (rest, text) = (rest.get(1..).unwrap_or_default(), text + 1);
                    continue;
                };
                let siblings = rest.partition_point(|other| other.get(depth) == Some(&label));
                let fail = if at == 0 { ROOT } else { trie.step(parent.fail, label) };
                let whole = next.len() == depth + 1;
                let found = if whole { depth as u32 + 1 } else { trie.node(fail).found };
                let node = Node { fail, depth: parent.depth + 1, found, text: text as u32, ..Node::default() };
                if let Some(child) = trie.from_root.get_mut(usize::from(label)).filter(|_| at == 0) {
                    *child = trie.nodes.len() as State;
                }
                trie.nodes.push(node);
                trie.labels.push(label);
                ranges.push(text..text + siblings);
                (rest, text) = (rest.get(siblings..).unwrap_or_default(), text + siblings);
            }
            let children = trie.nodes.len() as u32 - first;
            if let Some(parent) = trie.nodes.get_mut(at) {
                (parent.first, parent.children) = (first, children);
            }
            at += 1;
        }
        trie
    }

    /// What is begun in this state: the first text that begins so, and how much of it.
    pub(super) fn position(&self, state: State) -> (u32, u32) {
        let node = self.node(state);
        (node.text, node.depth)
    }

    /// How much is begun in this state.
    pub(super) fn depth(&self, state: State) -> usize {
        self.node(state).depth as usize
    }

    /// The state after more of the stream. Tells `found`, for each place where a text ends, how many bytes of the stream
    /// were before that, and the length of the longest text that ends there.
    pub(super) fn feed(&self, mut state: State, stream: &[u8], mut found: impl FnMut(usize, usize)) -> State {
        for (at, byte) in stream.iter().enumerate() {
            state = self.step(state, *byte);
            let mut node = self.node(state);
            if node.found > 0 {
                found(at + 1, node.found as usize);
                // Where a text can become no longer one, it is not begun any more.
                while state != ROOT && node.children == 0 {
                    state = node.fail;
                    node = self.node(state);
                }
            }
        }
        state
    }

    fn step(&self, mut state: State, byte: u8) -> State {
        while state != ROOT {
            let node = self.node(state);
            let first = node.first as usize;
            let labels = self.labels.get(first..first + node.children as usize).unwrap_or_default();
            if let Some(child) = labels.iter().position(|label| *label == byte) {
                return node.first + child as u32;
            }
            state = node.fail;
        }
        self.from_root.get(usize::from(byte)).copied().unwrap_or(ROOT)
    }

    fn node(&self, state: State) -> Node {
        self.nodes.get(state as usize).copied().unwrap_or_default()
    }
}

#[cfg(feature = "zeroize")]
impl Drop for Trie {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.labels);
    }
}
