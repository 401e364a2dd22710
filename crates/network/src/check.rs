//! Checks that a network's parts fit each other, for networks that were built or changed by hand:
//! engines rely on it.

use crate::Error;
use crate::graph::{Network, Op, ParamId, StatId};

impl Network {
    /// Checks operations, channels, parameters and statistics against each other. A network built
    /// by [`Network`]'s own methods passes.
    ///
    /// # Errors
    /// Names the node or parameter that doesn't fit.
    pub fn check(&self) -> Result<(), Error> {
        for (i, node) in self.nodes.iter().enumerate() {
            let fail = |what: &str| Err(Error::Network(format!("{}: {what}", node.name)));
            if node.inputs.iter().any(|x| x.0 >= i) {
                return fail("reads a node that comes after it");
            }
            let inputs = match node.op {
                Op::Input { .. } => 0,
                Op::Add => 2,
                _ => 1,
            };
            if node.inputs.len() != inputs || (inputs == 0) != (i == 0) {
                return fail("has the wrong number of inputs");
            }
            let c = node.channels;
            let from = node.inputs.first().map_or(c, |x| self.node(*x).channels);
            let good = match &node.op {
                Op::Input { mean, std } => mean.len() == c && std.len() == c,
                Op::Conv2d(k) => {
                    let shape = [k.out_channels, k.in_channels, k.kernel, k.kernel];
                    k.in_channels == from
                        && k.out_channels == c
                        && k.kernel * k.stride > 0
                        && self.has_shape(k.weight, &shape)
                }
                Op::Linear(l) => {
                    l.in_features == from
                        && l.out_features == c
                        && self.has_shape(l.weight, &[c, from])
                        && l.bias.is_none_or(|b| self.has_shape(b, &[c]))
                }
                Op::BatchNorm(n) => {
                    c == from
                        && [n.weight, n.bias]
                            .into_iter()
                            .flatten()
                            .all(|p| self.has_shape(p, &[c]))
                        && [n.mean, n.var].into_iter().all(|s| self.has_channels(s, c))
                }
                Op::MaxPool(w) => c == from && w.kernel * w.stride > 0 && w.padding * 2 <= w.kernel,
                Op::Add => c == from && c == self.node(node.inputs[1]).channels,
                Op::Relu | Op::GlobalAvgPool | Op::L2Norm => c == from,
            };
            if !good || c == 0 {
                return fail("its parameters, statistics or channels don't fit it");
            }
        }
        let ids = (self.stages.iter().map(|s| s.1))
            .chain(self.embedding)
            .chain(self.classifiers.iter().map(|k| k.logits));
        for id in ids {
            if id.0 >= self.nodes.len() {
                return Err(Error::Network(format!("there is no node {}", id.0)));
            }
        }
        let mut names: Vec<&str> = (self.params.iter().map(|p| &p.name[..]))
            .chain(self.statistics.iter().map(|s| &s.name[..]))
            .collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Error::Network(format!("two tensors are named {}", pair[0]))),
            None => Ok(()),
        }
    }

    fn has_shape(&self, id: ParamId, shape: &[usize]) -> bool {
        self.params.get(id.0).is_some_and(|p| p.shape == shape)
    }

    fn has_channels(&self, id: StatId, channels: usize) -> bool {
        (self.statistics.get(id.0)).is_some_and(|s| s.channels == channels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Init;

    fn network() -> Network {
        let mut net = Network::new();
        let x = net.input(&[0.5], &[0.5]).unwrap();
        let x = net
            .conv2d("conv", x, 4, 3, 1, 1, Init::KaimingNormalFanOut)
            .unwrap();
        let x = net.batch_norm("bn", x, true);
        let x = net.global_avg_pool("pool", x);
        net.linear("fc", x, 2, true).unwrap();
        net
    }

    #[test]
    fn what_was_changed_by_hand_is_noticed() {
        network().check().unwrap();
        let broken: [fn(&mut Network); 6] = [
            |net| net.params[0].shape[0] = 3,
            |net| net.nodes[1].channels = 5,
            |net| net.statistics[1].channels = 1,
            |net| net.nodes[2].inputs[0].0 = 3,
            |net| net.params[4].shape = vec![1],
            |net| net.params[1].name = "conv.weight".into(),
        ];
        for (i, break_it) in broken.into_iter().enumerate() {
            let mut net = network();
            break_it(&mut net);
            assert!(net.check().is_err(), "break {i}");
        }
    }
}
