// A strict reader of JSON (RFC 8259), enough for the golden vectors: what it does not understand ends the program.
// Numbers are doubles; integers below 2^53 are exact. Strings may escape a quote, a slash or a backslash.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

namespace json {

enum class Kind { NOTHING, TRUTH, NUMBER, TEXT, LIST, MAP };

struct Value {
    Kind kind = Kind::NOTHING;
    double number = 0.0;
    std::string text;
    std::vector<Value> items;        // of a list, and the values of a map
    std::vector<std::string> names;  // of a map, in the order of the file

    const Value* find(const std::string& name) const {
        for (std::size_t i = 0; i < names.size(); ++i)
            if (names[i] == name) return &items[i];
        return nullptr;
    }
};

class Reader {
  public:
    explicit Reader(std::string text) : text_(std::move(text)) {}

    Value read() {
        Value value = any(0);
        space();
        if (at_ != text_.size()) fail("something after the end");
        return value;
    }

  private:
    static constexpr int DEEPEST = 20;

    [[noreturn]] void fail(const char* why) const {
        std::printf("FAILED: JSON, byte %zu: %s\n", at_, why);
        std::exit(2);
    }

    char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

    void space() {
        while (peek() == ' ' || peek() == '\n' || peek() == '\r' || peek() == '\t') ++at_;
    }

    void expect(char c) {
        space();
        if (peek() != c) fail("an unexpected character");
        ++at_;
    }

    bool take(char c) {
        space();
        if (peek() != c) return false;
        ++at_;
        return true;
    }

    Value any(int depth) {
        if (depth > DEEPEST) fail("nested too deep");
        space();
        switch (peek()) {
            case '{': return map(depth);
            case '[': return list(depth);
            case '"': return quoted();
            case 't': return word("true", Kind::TRUTH, 1.0);
            case 'f': return word("false", Kind::TRUTH, 0.0);
            case 'n': return word("null", Kind::NOTHING, 0.0);
            default: return number();
        }
    }

    Value word(const char* spelled, Kind kind, double number) {
        for (const char* c = spelled; *c; ++c) {
            if (peek() != *c) fail("an unknown word");
            ++at_;
        }
        Value value;
        value.kind = kind;
        value.number = number;
        return value;
    }

    Value number() {
        const std::size_t begin = at_;
        while (peek() && std::string("+-0123456789.eE").find(peek()) != std::string::npos) ++at_;
        Value value;
        value.kind = Kind::NUMBER;
        value.text = text_.substr(begin, at_ - begin);
        char* end = nullptr;
        value.number = std::strtod(value.text.c_str(), &end);
        if (value.text.empty() || *end != '\0') fail("not a number");
        return value;
    }

    Value quoted() {
        expect('"');
        Value value;
        value.kind = Kind::TEXT;
        while (peek() != '"') {
            if (static_cast<unsigned char>(peek()) < ' ') fail("a string without an end");
            if (peek() == '\\') {
                ++at_;
                if (std::string("\"\\/").find(peek()) == std::string::npos) fail("an escape that is not read here");
            }
            value.text += text_[at_++];
        }
        ++at_;
        return value;
    }

    Value list(int depth) {
        expect('[');
        Value value;
        value.kind = Kind::LIST;
        if (take(']')) return value;
        do value.items.push_back(any(depth + 1));
        while (take(','));
        expect(']');
        return value;
    }

    Value map(int depth) {
        expect('{');
        Value value;
        value.kind = Kind::MAP;
        if (take('}')) return value;
        do {
            space();
            value.names.push_back(quoted().text);
            expect(':');
            value.items.push_back(any(depth + 1));
        } while (take(','));
        expect('}');
        return value;
    }

    std::string text_;
    std::size_t at_ = 0;
};

inline Value read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        std::printf("FAILED: %s cannot be read\n", path.c_str());
        std::exit(2);
    }
    return Reader(std::string(std::istreambuf_iterator<char>(file), {})).read();
}

}  // namespace json
