//! Stacks of layers against a model.

use proptest::prelude::*;

use super::*;

/// A model of the same rules: a flat map of whole paths, for layers without
/// symbolic links in paths. Slow but simple.
#[derive(Default)]
struct Model {
    /// Path to (type, id, last layer). Hard links have the same `id`.
    paths: BTreeMap<Vec<String>, (Node, usize, usize)>,
    next: usize,
}

#[derive(Clone, PartialEq, Debug)]
enum Node {
    Directory(u16),
    File(u64, usize),
}

impl Model {
    fn set(&mut self, path: &[String], node: Node, layer: usize) {
        self.next += 1;
        self.paths.insert(path.to_vec(), (node, self.next, layer));
    }

    fn parents(&mut self, path: &[String], layer: usize) {
        for length in 1..path.len() {
            let parent = &path[..length];
            match self.paths.get_mut(parent) {
                Some((Node::Directory(_), _, touched)) => *touched = layer,
                _ => self.set(parent, Node::Directory(0o755), layer),
            }
        }
    }

    fn drop_below(&mut self, path: &[String], keep_from: usize) {
        self.paths.retain(|other, (_, _, layer)| {
            !(other.len() > path.len() && other.starts_with(path)) || *layer >= keep_from
        });
    }

    fn add(&mut self, kind: u8, path: &[String], size: u64, layer: usize) {
        match kind {
            // whiteout
            0 => {
                let dead = self
                    .paths
                    .get(path)
                    .is_some_and(|(_, _, touched)| *touched < layer);
                self.drop_below(path, layer);
                if dead {
                    self.paths.remove(path);
                }
            }
            // opaque
            1 => self.drop_below(path, layer),
            // directory
            2 => {
                self.parents(path, layer);
                match self.paths.get_mut(path) {
                    Some((node @ Node::Directory(_), _, touched)) => {
                        *node = Node::Directory(0o700);
                        *touched = layer;
                    }
                    _ => self.set(path, Node::Directory(0o700), layer),
                }
            }
            // file
            _ => {
                self.parents(path, layer);
                self.drop_below(path, usize::MAX);
                self.set(path, Node::File(size, layer), layer);
            }
        }
    }

    /// False if the target is not a file; then the layer is invalid.
    fn link(&mut self, path: &[String], target: &[String], layer: usize) -> bool {
        let Some((node @ Node::File(..), id, _)) = self.paths.get(target).cloned() else {
            return false;
        };
        self.parents(path, layer);
        self.drop_below(path, usize::MAX);
        self.paths.insert(path.to_vec(), (node, id, layer));
        true
    }

    fn lines(&self) -> Vec<String> {
        let mut first: BTreeMap<usize, String> = BTreeMap::new();
        let mut out = Vec::new();
        for (path, (node, id, _)) in &self.paths {
            let path = path.join("/");
            match node {
                Node::Directory(mode) => out.push(format!("{path}/ {mode:o}")),
                Node::File(..) if first.contains_key(id) => {
                    out.push(format!("{path} ~ {}", first[id]));
                }
                Node::File(size, layer) => {
                    first.insert(*id, path.clone());
                    out.push(format!("{path} = {size} of {layer}"));
                }
            }
        }
        out
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn any_stack_of_layers_is_merged_as_in_the_model(
        layers in proptest::collection::vec(
            proptest::collection::vec(
                (0u8..7, proptest::collection::vec("[ab]", 1..4), proptest::collection::vec("[ab]", 1..4), 0u64..5),
                0..8,
            ),
            1..5,
        ),
    ) {
        let mut merger = Merger::new();
        let mut model = Model::default();
        'layers: for (number, layer) in layers.iter().enumerate() {
            merger.begin_layer(number, "");
            for (kind, path, target, size) in layer {
                let joined = path.join("/");
                let (last, parents) = path.split_last().unwrap();
                let entry = match kind {
                    0 => member('f', &[parents, &[format!(".wh.{last}")]].concat().join("/"), ""),
                    1 => member('f', &format!("{joined}/.wh..wh..opq"), ""),
                    2 => member('d', &joined, ""),
                    6 => member('h', &joined, &target.join("/")),
                    _ => member('f', &joined, &"x".repeat(*size as usize)),
                };
                let added = merger.add(entry);
                if *kind != 6 {
                    prop_assert!(added.is_ok());
                    model.add(*kind, path, *size, number);
                } else if !model.link(path, target, number) {
                    prop_assert!(added.is_err());
                    break 'layers;
                } else {
                    prop_assert!(added.is_ok());
                }
            }
        }
        prop_assert_eq!(lines(&merger.finish()), model.lines());
    }
}
