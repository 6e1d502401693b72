//! The remediations that the programs can print, collected from their sources.
//!
//! A remediation is a string in the argument of a method `remediation` or `maybe_remediation`, in
//! the body of a function `remediation` or of one whose name ends so, or in the value of a field,
//! a variable or a constant whose name contains `remediation`. Constants and variables that are used there
//! are followed. An argument in which no string is found is reported as hidden.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Expr, Item, Pat, Token};

use crate::floors::is_for_tests;

/// The source directories of the programs.
const DIRECTORIES: &[&str] = &[
    "cas/src",
    "pipeline/src",
    "vmm/src",
    "vmm/proto/src",
    "vmm/guest/src",
    "vmm/tree/src",
    "cli/src",
    "cli/workspace/src",
];

/// What was found in the sources.
#[derive(Debug, Default)]
pub struct Found {
    /// The remediations, with `{}` for what is only known at run time, and the files they are in.
    pub texts: BTreeMap<String, BTreeSet<String>>,
    /// Files and expressions that set a remediation that is not seen here.
    pub hidden: BTreeSet<String>,
}

/// Reads the sources of all programs below `root`.
pub fn collect(root: &Path) -> Found {
    let mut files = Vec::new();
    for directory in DIRECTORIES {
        list(&root.join(directory), &mut files);
    }
    collect_from(files.into_iter().map(|path| {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(root).unwrap_or(&path);
        (name.display().to_string(), text)
    }))
}

/// Reads these files, given as names and contents.
pub fn collect_from(files: impl Iterator<Item = (String, String)>) -> Found {
    let mut found = Found::default();
    let parsed: Vec<(String, syn::File)> = files
        .map(|(name, text)| {
            let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            (name, file)
        })
        .filter(|(_, file)| !is_for_tests(&file.attrs))
        .collect();
    let mut constants = BTreeMap::new();
    for (_, file) in &parsed {
        Constants(&mut constants).visit_file(file);
    }
    for (name, file) in &parsed {
        let mut reader = Reader {
            file: name,
            constants: &constants,
            variables: Vec::new(),
            asks_with_argument: asks_with_argument(file),
            found: &mut found,
        };
        reader.visit_file(file);
    }
    found
}

fn list(directory: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path
            .file_stem()
            .is_some_and(|stem| stem == "tests" || stem == "testing")
        {
            continue;
        }
        if path.is_dir() {
            list(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The constants of all crates that hold strings, by name.
struct Constants<'a>(&'a mut BTreeMap<String, Expr>);

impl<'a> Visit<'a> for Constants<'_> {
    fn visit_item_const(&mut self, item: &'a syn::ItemConst) {
        self.0.insert(item.ident.to_string(), (*item.expr).clone());
    }
}

/// Collects the remediations of a file.
struct Reader<'a> {
    file: &'a str,
    constants: &'a BTreeMap<String, Expr>,
    /// The variables of the function that is being read, with their values.
    variables: Vec<(String, Expr)>,
    /// The file has a method `remediation` that takes an argument and sets nothing.
    asks_with_argument: bool,
    found: &'a mut Found,
}

/// Whether a file has a method `fn remediation(&self, context: T) -> String`.
fn asks_with_argument(file: &syn::File) -> bool {
    let functions = file.items.iter().filter_map(|item| match item {
        Item::Impl(item) => Some(&item.items),
        _ => None,
    });
    functions.flatten().any(|item| match item {
        syn::ImplItem::Fn(function) => {
            let inputs = &function.sig.inputs;
            is_remediation(&function.sig.ident.to_string())
                && inputs.len() > 1
                && matches!(inputs.first(), Some(syn::FnArg::Receiver(own)) if matches!(own.kind, syn::ReceiverKind::Reference(..)))
        }
        _ => false,
    })
}

fn is_remediation(name: &str) -> bool {
    name.to_lowercase().contains("remediation")
}

impl Reader<'_> {
    /// Adds the strings of an expression whose value is a remediation. Variables are followed only
    /// if it has none itself, because they may be anything then.
    fn add(&mut self, expr: &Expr) {
        let (texts, defers) = self.strings(expr, &[]);
        let texts = match texts.is_empty() && !defers {
            true => self.strings(expr, &self.variables).0,
            false => texts,
        };
        if texts.is_empty() && !defers {
            self.found.hidden.insert(self.file.to_owned());
        }
        self.insert(texts);
    }

    /// The strings of an expression, and whether it passes a remediation on.
    fn strings(&self, expr: &Expr, variables: &[(String, Expr)]) -> (Vec<String>, bool) {
        let mut strings = Strings {
            constants: self.constants,
            variables,
            depth: 0,
            texts: Vec::new(),
            defers: false,
        };
        strings.visit_expr(expr);
        (strings.texts, strings.defers)
    }

    fn insert(&mut self, texts: Vec<String>) {
        for text in texts {
            let files = self.found.texts.entry(text).or_default();
            files.insert(self.file.to_owned());
        }
    }

    fn function(&mut self, name: &syn::Ident, block: &syn::Block) {
        let outer = std::mem::take(&mut self.variables);
        let mut variables = Variables(Vec::new());
        variables.visit_block(block);
        self.variables = variables.0;
        if is_remediation(&name.to_string()) {
            let block = syn::ExprBlock {
                attrs: Vec::new(),
                label: None,
                block: block.clone(),
            };
            let (texts, _) = self.strings(&Expr::Block(block), &[]);
            self.insert(texts);
        }
        visit::visit_block(self, block);
        self.variables = outer;
    }
}

impl<'a> Visit<'a> for Reader<'_> {
    fn visit_item(&mut self, item: &'a Item) {
        let attributes: &[syn::Attribute] = match item {
            Item::Mod(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Const(item) => &item.attrs,
            _ => &[],
        };
        if !is_for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'a syn::ItemFn) {
        self.function(&item.sig.ident, &item.block);
    }

    fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
        self.function(&item.sig.ident, &item.block);
    }

    fn visit_expr_method_call(&mut self, call: &'a syn::ExprMethodCall) {
        let is_context = |argument: &Expr| matches!(argument, Expr::Reference(reference) if matches!(*reference.expr, Expr::Field(_)));
        if is_remediation(&call.method.to_string()) {
            for argument in &call.args {
                if !(self.asks_with_argument && is_context(argument)) {
                    self.add(argument);
                }
            }
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_field_value(&mut self, field: &'a syn::FieldValue) {
        if let syn::Member::Named(name) = &field.member
            && is_remediation(&name.to_string())
        {
            self.add(&field.expr);
        }
        visit::visit_field_value(self, field);
    }

    fn visit_item_const(&mut self, item: &'a syn::ItemConst) {
        if is_remediation(&item.ident.to_string()) {
            self.add(&item.expr);
        }
        visit::visit_item_const(self, item);
    }

    fn visit_local(&mut self, local: &'a syn::Local) {
        if let Some(init) = &local.init {
            let mut bound = Vec::new();
            bindings(&local.pat, &init.expr, &mut bound);
            for (name, expr) in bound {
                if is_remediation(&name) {
                    self.add(&expr);
                }
            }
        }
        visit::visit_local(self, local);
    }
}

/// The variables that a pattern binds, with the expressions they may be.
fn bindings(pat: &Pat, expr: &Expr, bound: &mut Vec<(String, Expr)>) {
    match pat {
        Pat::Ident(pat) => bound.push((pat.ident.to_string(), expr.clone())),
        Pat::Type(pat) => bindings(&pat.pat, expr, bound),
        Pat::Tuple(pat) => {
            let mut tuples = Tuples(Vec::new());
            tuples.visit_expr(expr);
            for tuple in tuples.0 {
                if tuple.elems.len() == pat.elems.len() {
                    for (pat, expr) in pat.elems.iter().zip(&tuple.elems) {
                        bindings(pat, expr, bound);
                    }
                }
            }
        }
        _ => {}
    }
}

struct Tuples(Vec<syn::ExprTuple>);

impl<'a> Visit<'a> for Tuples {
    fn visit_expr_tuple(&mut self, tuple: &'a syn::ExprTuple) {
        self.0.push(tuple.clone());
    }
}

/// The variables of a function.
struct Variables(Vec<(String, Expr)>);

impl<'a> Visit<'a> for Variables {
    fn visit_local(&mut self, local: &'a syn::Local) {
        if let Some(init) = &local.init {
            bindings(&local.pat, &init.expr, &mut self.0);
        }
        visit::visit_local(self, local);
    }
}

/// The strings of an expression; constants and variables are followed.
struct Strings<'a> {
    constants: &'a BTreeMap<String, Expr>,
    variables: &'a [(String, Expr)],
    depth: usize,
    texts: Vec<String>,
    /// The expression passes a remediation on, which is collected where it is made.
    defers: bool,
}

impl Strings<'_> {
    fn push(&mut self, text: &str) {
        // Pieces of a text, such as the names of files, are not remediations.
        if text.contains(' ') {
            self.texts.push(text.to_owned());
        }
    }
}

impl<'a> Visit<'a> for Strings<'_> {
    fn visit_lit_str(&mut self, literal: &'a syn::LitStr) {
        self.push(&literal.value());
    }

    fn visit_macro(&mut self, mac: &'a syn::Macro) {
        let parser = Punctuated::<Expr, Token![,]>::parse_terminated;
        let Ok(arguments) = mac.parse_body_with(parser) else {
            return;
        };
        let is_format = matches!(arguments.first(), Some(Expr::Lit(_)));
        if let Some(Expr::Lit(syn::ExprLit {
            lit: syn::Lit::Str(text),
            ..
        })) = arguments.first()
        {
            self.push(&template(&text.value()));
        }
        arguments
            .iter()
            .skip(usize::from(is_format))
            .for_each(|argument| self.visit_expr(argument));
    }

    fn visit_expr_path(&mut self, path: &'a syn::ExprPath) {
        let Some(name) = path.path.segments.last() else {
            return;
        };
        let name = name.ident.to_string();
        if is_remediation(&name) || name == "None" {
            self.defers = true;
        }
        if self.depth == 4 {
            return;
        }
        self.depth += 1;
        if let Some(expr) = self.constants.get(&name) {
            self.visit_expr(expr);
        }
        for (variable, expr) in self.variables {
            if *variable == name {
                self.visit_expr(expr);
            }
        }
        self.depth -= 1;
    }

    fn visit_expr_struct(&mut self, value: &'a syn::ExprStruct) {
        let is_ours = |field: &&syn::FieldValue| matches!(&field.member, syn::Member::Named(name) if is_remediation(&name.to_string()));
        match value.fields.iter().find(is_ours) {
            // Its other fields are something else.
            Some(field) => self.visit_expr(&field.expr),
            None => visit::visit_expr_struct(self, value),
        }
    }

    fn visit_expr_method_call(&mut self, call: &'a syn::ExprMethodCall) {
        // Collected where it is made.
        if is_remediation(&call.method.to_string()) && call.args.is_empty() {
            self.defers = true;
            return;
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_field(&mut self, field: &'a syn::ExprField) {
        if let syn::Member::Named(name) = &field.member
            && is_remediation(&name.to_string())
        {
            self.defers = true;
            return;
        }
        visit::visit_expr_field(self, field);
    }
}

/// A format string with `{}` for each argument.
fn template(text: &str) -> String {
    let mut template = String::new();
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        template.push(character);
        match (character, characters.peek()) {
            ('{', Some('{')) | ('}', Some('}')) => {
                characters.next();
            }
            ('{', _) => template.extend(characters.by_ref().find(|&next| next == '}')),
            _ => {}
        }
    }
    template
}
