//! Python's arithmetic and comparisons on numbers, strings and lists.

use crate::ast::{Comparison, Operator};
use crate::error::Fault;
use crate::limits;
use crate::value::{Kind, Value};

/// A number. Whole ones stay whole, as in Python, though in 64 bits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Number {
    Int(i64),
    Float(f64),
}

impl Number {
    fn float(self) -> f64 {
        match self {
            Number::Int(n) => n as f64,
            Number::Float(x) => x,
        }
    }
}

/// `a operator b`.
pub(crate) fn arithmetic(
    operator: Operator,
    a: Number,
    b: Number,
    line: usize,
) -> Result<Number, Fault> {
    use Number::{Float, Int};
    let dividing = matches!(
        operator,
        Operator::Divide | Operator::FloorDivide | Operator::Modulo
    );
    if dividing && b.float() == 0.0 {
        return Err(Fault::new(line, "a division by zero"));
    }
    let whole = match (operator, a, b) {
        (Operator::Add, Int(a), Int(b)) => Some(a.checked_add(b)),
        (Operator::Subtract, Int(a), Int(b)) => Some(a.checked_sub(b)),
        (Operator::Multiply, Int(a), Int(b)) => Some(a.checked_mul(b)),
        // Rounded down, where Rust rounds towards zero.
        (Operator::FloorDivide, Int(a), Int(b)) => Some(a.checked_div(b).map(|q| {
            let uneven = a.checked_rem(b).is_some_and(|r| r != 0);
            q - i64::from(uneven && ((a < 0) != (b < 0)))
        })),
        (Operator::Modulo, Int(a), Int(b)) => Some(a.checked_rem(b).map(|r| {
            if r != 0 && ((r < 0) != (b < 0)) {
                r + b
            } else {
                r
            }
        })),
        (Operator::Power, Int(a), Int(b)) if b >= 0 => {
            Some(u32::try_from(b).ok().and_then(|b| a.checked_pow(b)))
        }
        _ => None,
    };
    if let Some(result) = whole {
        let too_large = || Fault::new(line, "the result doesn't fit in 64 bits");
        return result.map(Int).ok_or_else(too_large);
    }
    let (a, b) = (a.float(), b.float());
    let result = match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Divide => a / b,
        Operator::FloorDivide => (a / b).floor(),
        Operator::Modulo => a - b * (a / b).floor(),
        Operator::Power => a.powf(b),
    };
    if !result.is_finite() {
        return Err(Fault::new(line, "the result is no finite number"));
    }
    Ok(Float(result))
}

/// `a comparison b`.
pub(crate) fn compare(
    comparison: Comparison,
    a: &Value,
    b: &Value,
    line: usize,
) -> Result<bool, Fault> {
    let contained = || match (&a.kind, &b.kind) {
        (_, Kind::List(items) | Kind::Tuple(items)) => Ok(items.contains(a)),
        (Kind::Str(key), Kind::Dict(dict)) => Ok(dict.get(key).is_some()),
        (Kind::Str(part), Kind::Str(whole)) => Ok(whole.contains(part.as_str())),
        _ => Err(Fault::not_understood(line, "`in` between these")),
    };
    let ordering = || {
        let numbers = a.as_number().zip(b.as_number());
        let order = match (numbers, a.as_str(), b.as_str()) {
            (Some((a, b)), _, _) => a.partial_cmp(&b),
            (_, Some(a), Some(b)) => Some(a.cmp(b)),
            _ => None,
        };
        order.ok_or_else(|| Fault::not_understood(line, "this comparison"))
    };
    let same = || match (&a.kind, &b.kind) {
        (Kind::None | Kind::Bool(_), _) | (_, Kind::None | Kind::Bool(_)) => Ok(a == b),
        _ => Err(Fault::not_understood(
            line,
            "`is` other than with None, True or False",
        )),
    };
    Ok(match comparison {
        Comparison::Equal => a == b,
        Comparison::NotEqual => a != b,
        Comparison::Less => ordering()?.is_lt(),
        Comparison::LessEqual => ordering()?.is_le(),
        Comparison::Greater => ordering()?.is_gt(),
        Comparison::GreaterEqual => ordering()?.is_ge(),
        Comparison::In => contained()?,
        Comparison::NotIn => !contained()?,
        Comparison::Is => same()?,
        Comparison::IsNot => !same()?,
    })
}

/// `range(...)` of these numbers.
pub(crate) fn range(numbers: &[i64], line: usize) -> Result<Vec<i64>, Fault> {
    let (start, stop, step) = match *numbers {
        [stop] => (0, stop, 1),
        [start, stop] => (start, stop, 1),
        [start, stop, step] if step != 0 => (start, stop, step),
        _ => {
            return Err(Fault::new(
                line,
                "range() takes one to three whole numbers, the step not 0",
            ));
        }
    };
    let mut list = Vec::new();
    let mut next = Some(start);
    while let Some(n) = next.filter(|&n| if step > 0 { n < stop } else { n > stop }) {
        if list.len() >= limits::VALUES {
            return Err(Fault::new(line, "the range is too long"));
        }
        list.push(n);
        next = n.checked_add(step);
    }
    Ok(list)
}
