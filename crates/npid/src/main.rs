//! npid
fn main(){}
