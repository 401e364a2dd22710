//! Named tensors of numbers.

use std::collections::HashMap;

/// A tensor of 32-bit floating-point numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tensor {
    /// Its shape; empty for a single number.
    pub shape: Vec<usize>,
    /// Its elements, the last index running fastest; as many as the product of `shape`.
    pub data: Vec<f32>,
}

impl Tensor {
    /// A tensor of this shape.
    ///
    /// # Panics
    /// If `data` has another number of elements: the caller's mistake.
    pub fn new(shape: &[usize], data: Vec<f32>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "{shape:?}");
        Tensor {
            shape: shape.to_vec(),
            data,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }
}

/// Tensors by name, in an order that files keep.
#[derive(Clone, Debug, Default)]
pub struct Tensors {
    entries: Vec<(String, Tensor)>,
    index: HashMap<String, usize>,
    counters: Vec<(String, i64)>,
}

impl Tensors {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tensor at the end, or replaces the one of this name where it stands; returns that.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) -> Option<Tensor> {
        let name = name.into();
        match self.index.get(&name) {
            Some(&at) => Some(std::mem::replace(&mut self.entries[at].1, tensor)),
            None => {
                self.index.insert(name.clone(), self.entries.len());
                self.entries.push((name, tensor));
                None
            }
        }
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.index.get(name).map(|&at| &self.entries[at].1)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Tensor)> {
        self.entries
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Adds a whole number, such as `num_batches_tracked` of PyTorch's batch norms: 64 bits and
    /// no axes.
    pub fn count(&mut self, name: impl Into<String>, value: i64) {
        self.counters.push((name.into(), value));
    }

    /// All whole numbers, in order. They are not among the tensors.
    pub fn counters(&self) -> &[(String, i64)] {
        &self.counters
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl FromIterator<(String, Tensor)> for Tensors {
    fn from_iter<I: IntoIterator<Item = (String, Tensor)>>(entries: I) -> Self {
        let mut tensors = Tensors::new();
        for (name, tensor) in entries {
            tensors.insert(name, tensor);
        }
        tensors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_order_and_the_last_of_a_name_stays() {
        let one = |x| Tensor::new(&[1], vec![x]);
        let mut tensors = Tensors::new();
        assert!(tensors.insert("b", one(1.0)).is_none());
        assert!(tensors.insert("a", one(2.0)).is_none());
        assert_eq!(tensors.insert("b", one(3.0)), Some(one(1.0)));
        let names: Vec<&str> = tensors.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["b", "a"]);
        assert_eq!(tensors.get("b"), Some(&one(3.0)));
        assert_eq!(tensors.get("c"), None);
    }
}
